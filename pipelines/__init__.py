"""From folders of pictures to batches of tensors: prepare shards once, then read them in an order that is a function of images seen."""

from typing import TYPE_CHECKING, Any

from .errors import DataError
from .listing import SplitConfig
from .order import Order
from .prepare import PrepareConfig, prepare
from .shards import Shards

if TYPE_CHECKING:
    from .loader import Loader

__all__ = ["DataError", "Loader", "Order", "PrepareConfig", "Shards", "SplitConfig", "prepare"]


def __getattr__(name: str) -> Any:
    """Loader, once it is asked for: it imports torch, which preparing does without."""
    if name != "Loader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .loader import Loader

    return Loader
