"""How well the inference model and the generator together give an image back."""

from collections.abc import Callable

import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.material import Material

NEEDS = ("generate", "encode")


def measure(material: Material, settings) -> dict:
    """The error of held-out pictures given back from the mean code."""
    subject = material.subject
    return {"reconstruction_mse": reconstruction_mse(subject.generate, subject.encode, material.held_out(), material.at_once)}


def lower(found: dict) -> float:
    """The error itself."""
    return found["reconstruction_mse"]


@torch.no_grad()
def reconstruction_mse(generate: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor], held_out: Tensor, batch: int) -> float:
    """Mean over pixels and images of (x - clamp(G(mu(x)), -1, 1))^2 on [-1, 1], as P1 §4.1.3 reports it.

    `held_out` (N, C, r, r) are images not trained on; `encode` maps a batch to means (B, d), `generate` maps those to images, `batch` of
    them at a time. Raises HiresError for an empty set or reconstructions of another shape than the images.
    """
    if len(held_out) == 0:
        raise HiresError("reconstruction needs at least 1 held-out image, got none")
    total = 0.0
    for images in held_out.split(batch):
        given_back = generate(encode(images)).clamp(-1, 1).cpu()
        if given_back.shape != images.shape:
            raise HiresError(f"reconstructions {tuple(given_back.shape)} and images {tuple(images.shape)} differ in size")
        total += (images - given_back).double().square().sum().item()
    return total / held_out.numel()
