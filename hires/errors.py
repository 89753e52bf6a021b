"""What cannot work, in one line for the user."""


class HiresError(Exception):
    """A failure that the user can mend: the message is one line with the culprit, what was found and what is wanted."""


class NotFinite(HiresError):
    """A loss or a gradient is infinite or not a number; the message is its name alone, for who catches it to say where."""

    terms: dict = {}  # noqa: RUF012 - the round's terms by then, where known
