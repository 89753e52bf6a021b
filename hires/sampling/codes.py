"""Pictures -> codes -> pictures: what the inference model makes of pictures, and what the generator makes of that."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import json
from pathlib import Path

from safetensors.torch import save
import torch
from torch import Tensor

from hires.bundle.hires_bundle import Bundle
from hires.errors import HiresError
from hires.ground.files import whole_file


@dataclass
class Reconstructed:
    """A batch, on the CPU: names, pictures (B, C, r, r), reconstructions like them, mu and logvar (B, d), mse (B,) on [-1, 1]."""

    names: list[str]
    pictures: Tensor
    reconstructions: Tensor
    mu: Tensor
    logvar: Tensor
    mse: Tensor


def reconstruct(bundle: Bundle, batches: Iterable[tuple[list[str], Tensor]]) -> Iterator[Reconstructed]:
    """For each batch of names and pictures x in [-1, 1]: q(z | x) = N(mu, exp(logvar)), x_hat = clamp(G(mu), -1, 1), mean (x - x_hat)^2."""
    for names, pictures in batches:
        mu, logvar = encode(bundle, pictures)
        given_back = bundle.decode(mu).cpu()
        mse = (pictures - given_back).square().flatten(1).mean(1)
        yield Reconstructed(names, pictures, given_back, mu, logvar, mse)


def require_inference(bundle: Bundle) -> None:
    """Raise HiresError where a bundle makes no codes of pictures."""
    if bundle.inference is None:
        raise HiresError("the sampler has no inference model (divergence_triangle, latent_ebm, vae and vcd train one): it makes no codes")


def encode(bundle: Bundle, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """mu and logvar (B, d), on the CPU, of pictures (B, C, r, r) in [-1, 1]; raises HiresError for a bundle without inference model."""
    require_inference(bundle)
    mu, logvar = bundle.infer(pictures)
    return mu.cpu(), logvar.cpu()


def mean_code(bundle: Bundle, batches: Iterable[tuple[list[str], Tensor]]) -> tuple[Tensor, int]:
    """Mean of mu over all pictures, (d,) on the CPU, and how many they were; summed in fp64, so that the order hardly matters."""
    total, count = torch.zeros(bundle.latent, dtype=torch.float64), 0
    for _, pictures in batches:
        total += encode(bundle, pictures)[0].double().sum(0)
        count += len(pictures)
    return (total / count).float(), count


def save_codes(path: str | Path, names: list[str], mu: Tensor, logvar: Tensor, mse: Tensor) -> None:
    """Write mu, logvar (N, d) and mse (N,) as safetensors, with the N names as JSON under "names" in its metadata; whole or not at all.

    Raises HiresError where it cannot be written.
    """
    tensors = {"mu": mu.contiguous(), "logvar": logvar.contiguous(), "mse": mse.contiguous()}
    with whole_file(Path(path)) as part:
        part.write_bytes(save(tensors, {"names": json.dumps(names)}))


def edited(bundle: Bundle, mu: Tensor, direction: Tensor, strengths: list[float]) -> Tensor:
    """clamp(G(mu + strength direction), -1, 1) of codes (N, d) and a direction (d,), both on the CPU: (N, len(strengths), C, r, r)."""
    moved = mu[:, None] + torch.tensor(strengths)[:, None] * direction  # (N, S, d)
    return bundle.decode(moved.flatten(0, 1)).cpu().unflatten(0, moved.shape[:2])
