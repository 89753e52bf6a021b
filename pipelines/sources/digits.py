"""scikit-learn's handwritten digits, which need no download."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from .base import Item, Source


class DigitsSource(Source):
    """scikit-learn's 1,797 handwritten digits, 8x8 grey; the key ends in the label ('0042_7')."""

    channels, resolution, upscales = 1, 32, True

    def __init__(self):
        from sklearn.datasets import load_digits  # a second to import, and needed nowhere else

        digits = load_digits()
        self.pictures = np.floor(digits.images * 255 / 16 + 0.5).astype(np.uint8)
        self.labels = digits.target

    def __iter__(self) -> Iterator[Item]:
        for i, label in enumerate(self.labels):
            key = f"{i:04d}_{label}"
            yield Item(key, f"digits/{key}", 64, place=(i,))

    def load(self, item: Item) -> Image.Image:
        return Image.fromarray(self.pictures[item.place[0]])
