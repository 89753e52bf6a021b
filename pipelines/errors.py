"""What is wrong with data, in one line for the user."""


class DataError(Exception):
    """A failure that is the data's or its description's: one line with the culprit, what was found and what is wanted."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))  # libraries' messages, quoted inside ours, may span lines
