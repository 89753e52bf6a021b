"""What tests read off the page."""

from base64 import b64decode
import io
import json

import numpy as np
from PIL import Image

DRAWN = "document.querySelectorAll('.cell:not(.empty)').length === 24 && grid.getAttribute('aria-busy') === 'false'"
SEEDS = "[...document.querySelectorAll('.cell')].map(cell => Number(cell.dataset.seed))"
ENERGIES = "[...document.querySelectorAll('.cell .energy')].map(cell => Number(cell.textContent.replace('−', '-')))"
LETTERS = "Object.fromEntries([...document.querySelectorAll('.cell .badge')].filter(b => b.textContent)"
LETTERS += ".map(b => [b.textContent, Number(b.closest('.cell').dataset.seed)]))"


def weights(page) -> list[float]:
    """Where the preview's picture lies between the points."""
    return [float(part) for part in page.js("view.dataset.weights").split()]


def settled(page, *wanted: float) -> None:
    """Waits until the preview shows that place, to a hundredth."""
    page.until(f"{json.dumps(wanted)}.every((w, i) => Math.abs(w - view.dataset.weights?.split(' ')[i]) < 0.011)")


def picture(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(address.partition(",")[2]))).convert("RGB")).astype(int)


def pad(page, a: float, b: float, c: float) -> tuple[float, float]:
    """A place of the triangle in the viewport's pixels."""
    x, y, width, height = page.js(
        "(() => {pad.scrollIntoView({block: 'center'}); const r = pad.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]})()"
    )
    return x + width * (120 * a + 34 * b + 206 * c) / 240, y + height * (36 * a + 184 * b + 184 * c) / 214


def picture_file(mode="RGB", size=(32, 32), form="PNG") -> bytes:
    """The bytes of a picture of noise."""
    noise = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, form)
    return out.getvalue()
