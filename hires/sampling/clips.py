"""Clips that travel between latents: from keyframes to frames."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hires.bundle.hires_bundle import Bundle
from hires.errors import HiresError
from hires.ground.images import enlarge, save_grid, to_uint8
from hires.media.captions import bar_height, caption
from hires.media.containers import Show, write_video
from hires.sampling.ahead import ahead
from hires.sampling.keyframes import Keyframes
from hires.sampling.paths import keyframe_path, moments, smooth

LARGEST = 16384  # pixels of a frame either way, which H.264 ends at
VISIBLE = 256  # smallest side of a clip's picture in pixels
AT_ONCE = 4  # pictures in a forward pass: small batches keep generator and encoder both at work, from the start of a short clip on


def visible_size(resolution: int) -> int:
    """The side in pixels that a picture of r x r pixels is enlarged to: the smallest multiple of r that is at least 256."""
    return resolution * math.ceil(VISIBLE / resolution)


def check_size(size: int, resolution: int) -> int:
    """The side of a picture in a clip, `size` or the visible one for 0; raises HiresError where it is not a multiple of r pixels."""
    if size % resolution or size < 0:
        near = max(1, size // resolution) * resolution
        wanted = f"wanted a whole multiple of the {resolution} pixels of a picture, such as {near} or {near + resolution}"
        raise HiresError(f"size={size}: {wanted}")
    return size or visible_size(resolution)


@dataclass(frozen=True)
class Look:
    """How a clip's frames are laid out: `columns` x `rows` cells of `size` pixels."""

    columns: int = 1
    rows: int = 1
    size: int = VISIBLE
    captions: bool = False  # a line of text under each cell
    beside: bool = False  # the original to the left of each cell, cross-fading into the next half-way between two

    def bar(self) -> int:
        """Height in pixels of one caption under all cells."""
        return bar_height(self.size * min(self.rows, 2))

    def check(self) -> None:
        """Raises HiresError for frames larger than H.264 can be."""
        width = self.columns * self.size * (1 + self.beside)
        height = self.rows * (self.size + (bar_height(self.size) if self.captions else 0))
        if max(width, height) > LARGEST:
            raise HiresError(f"frames of {width}x{height} pixels: wanted at most {LARGEST} either way; choose another grid=… or size=…")


@dataclass(frozen=True)
class Travel:
    """How a clip moves; see `keyframe_path`."""

    frames_per_key: int
    kind: str = "slerp"
    loop: bool = True
    easing: str = "none"


def clip_frames(generate: Callable[[Tensor], Tensor], keys: Keyframes, travel: Travel, look: Look) -> tuple[int, Iterator[np.ndarray]]:
    """The number of a clip's frames, and the frames, uint8 (H, W, 3), made in a thread of their own ahead of who takes them.

    The keyframes are dealt to the cells one after another: of 8 in a grid of 2x1, the first four to the first. `generate` maps latents
    (B, d) to images (B, C, r, r) in [-1, 1], C 1 or 3. Raises HiresError as `moments` does, and where keys and cells do not go together.
    """
    cells = look.columns * look.rows
    each = len(keys.latents) // cells
    if each * cells != len(keys.latents):
        raise HiresError(f"{len(keys.latents)} keyframes for {cells} cells: wanted as many for each")
    segment, t = moments(travel.kind, each, travel.frames_per_key, travel.loop, travel.easing)
    paths = [keyframe_path(part, travel.frames_per_key, travel.kind, travel.loop, travel.easing) for part in keys.latents.split(each)]
    return len(segment), ahead(_frames(generate, torch.stack(paths, 1), keys, segment, t, travel.kind, look))


@torch.no_grad()
def _frames(
    generate: Callable[[Tensor], Tensor], latents: Tensor, keys: Keyframes, segment: Tensor, t: Tensor, kind: str, look: Look
) -> Iterator[np.ndarray]:
    count, cells = latents.shape[:2]
    each = len(keys.latents) // cells
    step = max(1, AT_ONCE // cells)
    for start in range(0, count, step):
        part = latents[start : start + step].flatten(0, 1)
        images = to_uint8(torch.cat([generate(z) for z in part.split(AT_ONCE)])).cpu()
        for i, cell_images in enumerate(images.unflatten(0, (-1, cells)), start):
            # keys of each cell that this frame lies between
            left = [cell * each + int(segment[i]) % each for cell in range(cells)]
            right = [cell * each + (int(segment[i]) + 1) % each for cell in range(cells)]
            if look.beside:
                cell_images = torch.cat([_originals(keys.pictures, left, right, float(t[i])), cell_images], 3)
            texts = [_text(keys.names, cell * each, each, a, b, kind) for cell, (a, b) in enumerate(zip(left, right, strict=True))]
            yield assemble(cell_images, look, texts if look.captions else None)


def _originals(pictures: Tensor, left: list[int], right: list[int], t: float) -> Tensor:
    """The originals (cells, C, r, r), uint8, of the nearer keys; in the middle fifth of the way one fades into the other."""
    share = float(smooth(torch.tensor(min(max((t - 0.4) / 0.2, 0.0), 1.0))))
    return to_uint8(torch.lerp(pictures[left], pictures[right], share))


def _text(names: list[str], first: int, each: int, left: int, right: int, kind: str) -> str:
    if kind in ("walk", "circle"):  # which passes between its keys, not from one to the next
        return f"{kind} of {', '.join(names[first : first + each])}"
    return f"{names[left]} → {names[right]}"


def assemble(images: Tensor, look: Look, texts: list[str] | None = None) -> np.ndarray:
    """One frame (H, W, 3), uint8, of the cells' images (cells, C, r, w), uint8, row by row, each with its text below."""
    images = enlarge(images, look.size).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    cells = images.numpy()
    if texts:
        bars = np.stack([caption(text, cells.shape[2], bar_height(cells.shape[1])) for text in texts])
        cells = np.concatenate([cells, bars], 1)
    h, w = cells.shape[1:3]
    grid = cells.reshape(look.rows, look.columns, h, w, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid).reshape(look.rows * h, look.columns * w, 3)


def generator_of(bundle: Bundle, prior: str = "") -> Callable[[Tensor], Tensor]:
    """The bundle's generator for w (B, d) on the CPU, which `Bundle.place` makes latents of a `prior` of."""
    return lambda w: bundle.generator(bundle.place(w.to(bundle.device), prior))


def interpolation_clip(
    source: Bundle | Callable[[Tensor], Tensor],
    keys: Tensor | Keyframes,
    path: str | Path,
    seconds_per_key: float = 2.0,
    fps: int = 30,
    kind: str = "slerp",
    loop: bool = True,
    easing: str = "none",
    look: Look | None = None,
    show: Show | None = None,
) -> int:
    """Write a clip that travels between the latents keys (N, d), `seconds_per_key` from one to the next, and return its number of frames.

    `source` is a bundle, or a callable from latents (B, d) to images (B, C, r, r) in [-1, 1], C 1 or 3. The suffix of `path` names the
    container (`write_video`); `kind`, `loop` and `easing` as in `keyframe_path`, `look` one cell of 256 pixels at least unless given.
    `show` gets the number of frames written. Raises HiresError as `clip_frames` and `write_video` do.
    """
    generate = generator_of(source) if isinstance(source, Bundle) else source
    keys = keys if isinstance(keys, Keyframes) else Keyframes(keys, [str(i) for i in range(len(keys))])
    travel = Travel(max(1, round(seconds_per_key * fps)), kind, loop, easing)
    _, frames = clip_frames(generate, keys, travel, look or Look())
    with closing(frames):
        return write_video(path, frames, fps, loop, show)


@torch.no_grad()
def interpolation_strip(
    generate: Callable[[Tensor], Tensor],
    keys: Keyframes,
    path: str | Path,
    steps: int = 10,
    kind: str = "slerp",
    size: int = 0,
    beside: bool = False,
) -> int:
    """Write a PNG with a row for each two keys, `steps` pictures from one to the other, ends included; returns the number of rows.

    `generate` as in `clip_frames`. With `beside` the two originals stand at the row's ends. Raises HiresError for an odd number of keys,
    fewer than 2 steps, another kind than slerp and linear, or a file that cannot be written.
    """
    if len(keys.latents) % 2 or not len(keys.latents):
        raise HiresError(f"{path}: {len(keys.latents)} keyframes, a strip has a row for each two: wanted an even number")
    if steps < 2 or kind not in ("slerp", "linear"):
        raise HiresError(f"{path}: steps={steps} path={kind}: a strip wants at least 2 steps, and slerp or linear")
    rows = []
    for i in range(0, len(keys.latents), 2):
        path_latents = keyframe_path(keys.latents[i : i + 2], steps - 1, kind, loop=False)
        images = torch.cat([generate(part) for part in path_latents.split(AT_ONCE)]).clamp(-1, 1).cpu()
        rows.append(torch.cat([keys.pictures[i : i + 1], images, keys.pictures[i + 1 : i + 2]]) if beside else images)
    images = torch.cat(rows)
    save_grid(enlarge(images, size) if size else images, path, columns=steps + 2 * beside)
    return len(rows)
