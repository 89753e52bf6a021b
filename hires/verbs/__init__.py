"""The verbs of the command line, thin: configuration in, library calls, a line or a table out."""
