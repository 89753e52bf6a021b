"""From float images to bytes, and grids of them as PNG."""

import math
from pathlib import Path

from PIL import Image
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.sampling.atomic import whole_file
from pipelines.torchvision_cpu import torchvision

READABLE = 64  # smallest side of a grid's cell in pixels


def to_uint8(images: Tensor) -> Tensor:
    """Float images (N, C, H, W) in [-1, 1] -> uint8 of the same shape: clamped, -1 to 0 and 1 to 255, halves rounded up."""
    return images.float().add(1).mul(127.5).add(0.5).clamp(0, 255).to(torch.uint8)


def enlarge(images: Tensor, at_least: int) -> Tensor:
    """Images (N, C, H, W) repeated pixel by pixel by the smallest whole factor that makes the shorter side `at_least` pixels."""
    factor = math.ceil(at_least / min(images.shape[-2:]))
    return images.repeat_interleave(factor, 2).repeat_interleave(factor, 3) if factor > 1 else images


def save_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write images (N, C, H, W), float in [-1, 1], C 1 or 3, as one RGB PNG, row by row; as square as it gets unless `columns` says else.

    Cells smaller than 64 pixels are enlarged by a whole factor. The file appears when it is whole. Raises HiresError for no images, another
    number of channels, or a file that cannot be written.
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise HiresError(f"{path}: images of shape {tuple(images.shape)}, wanted (N, 1 or 3, H, W) and N at least 1")
    cells = enlarge(to_uint8(images.detach()).cpu(), READABLE).expand(-1, 3, -1, -1)
    grid = torchvision.utils.make_grid(cells, nrow=columns or math.ceil(math.sqrt(len(cells))), padding=2)
    with whole_file(Path(path)) as part:
        Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy()).save(part, format="PNG")
