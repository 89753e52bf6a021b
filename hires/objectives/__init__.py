"""The systems, one file each. An objective knows players (call, accumulate, backward, step), not engines."""
