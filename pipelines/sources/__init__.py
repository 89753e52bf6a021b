"""Where pictures come from: one file a kind of source, opened by name."""

from .base import Item, Source
from .digits import DigitsSource
from .folder import FolderSource

__all__ = ["Item", "Source", "detect", "open_source"]


def detect(path: str) -> str:
    """The kind of source at `path`."""
    return "folder"


def open_source(kind: str, path: str) -> Source:
    """The source `kind` at `path`; raises DataError if it is not there or of an unknown kind."""
    from ..errors import DataError

    if kind == "folder":
        return FolderSource(path)
    if kind == "digits":
        return DigitsSource()
    raise DataError(f"source={kind}: unknown; wanted folder or digits")
