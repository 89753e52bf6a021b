"""From folders of pictures to batches of tensors: prepare shards once, then read them in an order that is a function of images seen."""

from .errors import DataError
from .listing import SplitConfig
from .loader import Loader
from .order import Order
from .prepare import PrepareConfig, prepare
from .shards import Shards

__all__ = ["DataError", "Loader", "Order", "PrepareConfig", "Shards", "SplitConfig", "prepare"]
