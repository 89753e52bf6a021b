"""What a person did that cannot work, told in one line."""


class HiresError(Exception):
    """A failure that the user can mend: the message is one line with the culprit, what was found and what is wanted."""
