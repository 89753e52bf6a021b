"""From float images to bytes: grids of them as PNG, and folders of PNG files."""

from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
import math
import os
from pathlib import Path

from PIL import Image
import torch
from torch import Tensor
import torch.nn.functional as F

from hires.errors import HiresError
from hires.ground.files import whole_file

READABLE = 64  # smallest side of a grid's cell in pixels
GAP = 2  # pixels between the cells of a grid, and around them
AHEAD = 64  # pictures that wait to be encoded, at most


def to_uint8(images: Tensor) -> Tensor:
    """Float images (N, C, H, W) in [-1, 1] -> uint8 of the same shape: clamped, -1 to 0 and 1 to 255, halves rounded up."""
    return images.float().add(1).mul(127.5).add(0.5).clamp(0, 255).to(torch.uint8)


def enlarge(images: Tensor, at_least: int) -> Tensor:
    """Images (N, C, H, W) repeated pixel by pixel by the smallest whole factor that makes the shorter side `at_least` pixels."""
    factor = math.ceil(at_least / min(images.shape[-2:]))
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3) if factor > 1 else images


def save_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write `grid` of images (N, C, H, W) as a PNG, which appears when it is whole; raises HiresError as `grid` does, naming the file, or
    where it cannot be written.
    """
    try:
        picture = grid(images, columns)
    except HiresError as error:
        raise HiresError(f"{path}: {error}") from None
    with whole_file(Path(path)) as part:
        picture.save(part, format="PNG")


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images (N, C, H, W), float in [-1, 1], C 1 or 3, as one RGB picture, row by row; as square as it gets unless `columns` says else.

    Cells smaller than 64 pixels are enlarged by a whole factor. Raises HiresError for no images or another number of channels.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise HiresError(f"images of shape {tuple(images.shape)}, wanted (N, 1 or 3, H, W) and N at least 1")
    cells = enlarge(to_uint8(images.detach()).cpu(), READABLE).expand(-1, 3, -1, -1)
    return Image.fromarray(_sheet(cells, columns or math.ceil(math.sqrt(len(cells)))).numpy())


def _sheet(cells: Tensor, columns: int) -> Tensor:
    """Cells (N, 3, H, W), row by row, as one picture (H', W', 3) with GAP black pixels around each; places without one stay black."""
    n, c, h, w = cells.shape
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    sheet = cells.new_zeros(rows * columns, c, h + GAP, w + GAP)
    sheet[:n, :, GAP:, GAP:] = cells
    sheet = sheet.view(rows, columns, c, h + GAP, w + GAP).permute(0, 3, 1, 4, 2).reshape(rows * (h + GAP), columns * (w + GAP), c)
    return F.pad(sheet, (0, 0, 0, GAP, 0, GAP))


def check_png(key: str, name: str) -> None:
    """Raise HiresError unless the setting `key` names a .png file."""
    if Path(name).suffix.lower() != ".png":
        raise HiresError(f"{key}={name}: wanted the name of a .png file")


def save_each(pictures: Iterable[tuple[Path, Tensor]]) -> int:
    """Write each picture (C, H, W), float in [-1, 1], C 1 or 3, as the PNG file beside it, and return how many there were.

    Threads encode while `pictures` makes the next ones, which waits when 64 are ahead. What it raises goes through; raises OSError where
    the system refuses to write.
    """
    count, waiting = 0, deque()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for path, picture in pictures:
            waiting.append(pool.submit(_save, path, to_uint8(picture[None])[0].cpu()))
            count += 1
            while len(waiting) > AHEAD:
                waiting.popleft().result()
        for each in waiting:
            each.result()
    return count


def _save(path: Path, picture: Tensor) -> None:
    pixels = picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(path, format="PNG")
