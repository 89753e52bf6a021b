"""The cluster in a box behind `slurm/cluster`; Python's standard library alone, so that it runs before any environment is made."""


class CannotBeHad(Exception):
    """This machine cannot have the cluster; the message says why in one line."""


class Failed(Exception):
    """What was asked for cannot be done; the message names the culprit in one line."""
