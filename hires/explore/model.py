"""What the page asks of a bundle, checked and answered as plain JSON values; knows nothing of HTTP."""

from base64 import b64encode
import io
import math
from typing import Any

from PIL import Image
import torch
from torch import Tensor

from hires.bundle.hires_bundle import LAST_SEED, Bundle, pictures_at_once
from hires.errors import HiresError
from hires.explore.mixing import mix
from hires.ground.images import to_uint8
from hires.media.pictures import read_picture
from hires.sampling.codes import require_inference
from hires.sampling.drawing import draw
from pipelines.sources.base import FORMATS

AT_ONCE = 64  # pictures in one request
POINTS = 3
PIXELS = 64_000_000  # of an upload


def png(image: Tensor) -> str:
    """An image (C, H, W), float in [-1, 1], C 1 or 3, as a data: address of a PNG, every pixel as `hires sample` would write it."""
    pixels = to_uint8(image[None])[0].cpu().permute(1, 2, 0).squeeze(2).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


class Explorer:
    """A bundle and the questions a page has; every method takes what a browser sent and raises HiresError (one line) where it is wrong."""

    def __init__(self, bundle: Bundle, name: str, prior: str = ""):
        self.bundle, self.name, self.prior = bundle, name, prior
        self.channels = bundle.config["image_channels"]

    def info(self) -> dict:
        """What the bundle is, and how many pictures to ask for at once so that answers come soon."""
        bundle = self.bundle
        told = {"name": self.name, "resolution": bundle.resolution, "channels": self.channels, "latent": bundle.latent}
        known = {key: value for key, value in bundle.config.get("info", {}).items() if isinstance(value, str | int | float)}
        return told | {"device": str(bundle.device), "at_once": min(8, pictures_at_once(bundle.resolution)), "info": known}

    @torch.no_grad()
    def sample(self, seeds: Any, truncation: Any = 1.0) -> list[dict]:
        """Seed, picture (a PNG as data: address) and energy of each of at most 64 seeds; `truncation` multiplies their latents."""
        wanted = f"seeds: wanted a list of 1 to {AT_ONCE} whole numbers from 0 to {LAST_SEED}"
        if not isinstance(seeds, list) or not 1 <= len(seeds) <= AT_ONCE:
            raise HiresError(wanted)
        for seed in seeds:
            if not _is_seed(seed):
                raise HiresError(f"{wanted}, found {_short(seed)}")
        drawn = draw(self.bundle, seeds, _number(truncation, "truncation", 0, 2), energies=False, prior=self.prior)
        rows = [row for batch in drawn for row in zip(batch.seeds, batch.pictures, self._energies(batch.pictures), strict=True)]
        return [{"seed": seed, "picture": png(image), "energy": energy} for seed, image, energy in rows]

    @torch.no_grad()
    def decode(self, points: Any, weights: Any = None, path: Any = "sphere", truncation: Any = 1.0) -> dict:
        """The picture, energy and |z| between one to three points, each {"seed": n} or {"code": [d numbers]}, at their weights."""
        if not isinstance(points, list) or not 1 <= len(points) <= POINTS:
            raise HiresError(f'points: wanted a list of 1 to {POINTS} objects {{"seed": n}} or {{"code": [{self.bundle.latent} numbers]}}')
        scale = _number(truncation, "truncation", 0, 2)
        latents = torch.stack([self._latent(point, scale) for point in points])
        weights = [1.0] * len(points) if weights is None else weights
        if not isinstance(weights, list) or len(weights) != len(points):
            raise HiresError(f"weights: wanted {len(points)} numbers, one a point")
        values = torch.tensor([_number(weight, "weights", 0, 1e6) for weight in weights], dtype=torch.float64)
        if not values.sum() > 0:
            raise HiresError("weights: all zero; wanted at least one above")
        z = mix(latents, values, str(path)).to(self.bundle.device)
        image = self.bundle.generator(z[None])
        return {"picture": png(image[0]), "energy": self._energies(image)[0], "norm": z.norm().item()}

    @torch.no_grad()
    def reconstruct(self, data: bytes) -> dict:
        """An uploaded picture as the networks see it, its mean code and the picture of that code; mse is the mean over [-1, 1] pixels."""
        require_inference(self.bundle)
        _check_pixels(data)
        x = read_picture(data, self.bundle.resolution, self.channels, "the picture").to(self.bundle.device)[None]
        mu, logvar = self.bundle.inference(x)
        x_hat = self.bundle.generator(mu)
        energies = self._energies(torch.cat([x, x_hat]))
        return {
            "original": png(x[0]),
            "picture": png(x_hat[0]),
            "code": mu[0].tolist(),
            "mse": _finite((x_hat.clamp(-1, 1) - x).square().mean()),
            "sigma": _finite((logvar[0] / 2).exp().mean()),  # how sure the inference model is: 1 is the prior
            "energy_original": energies[0],
            "energy": energies[1],
        }

    def _energies(self, images: Tensor) -> list[float | None]:
        if self.bundle.energy is None:
            return [None] * len(images)
        parts = images.clamp(-1, 1).split(pictures_at_once(self.bundle.resolution))
        return [_finite(energy) for part in parts for energy in self.bundle.energy(part)]

    def _latent(self, point: Any, truncation: float) -> Tensor:
        """A point as a latent (d,) on the CPU; truncation holds for seeds: a code is where the inference model put it."""
        if isinstance(point, dict) and point.keys() == {"seed"}:
            if not _is_seed(point["seed"]):
                raise HiresError(f"seed: wanted a whole number from 0 to {LAST_SEED}, found {_short(point['seed'])}")
            return self.bundle.place(self.bundle.latents([point["seed"]], "standard") * truncation, self.prior)[0].cpu()
        if isinstance(point, dict) and point.keys() == {"code"}:
            code = point["code"]
            if not isinstance(code, list) or len(code) != self.bundle.latent:
                raise HiresError(f"code: wanted a list of {self.bundle.latent} numbers")
            return torch.tensor([_number(value, "code", -1000, 1000) for value in code])
        raise HiresError(f'points: wanted {{"seed": n}} or {{"code": [{self.bundle.latent} numbers]}}, found {_short(point)}')


def _check_pixels(data: bytes) -> None:
    """Refuses a picture that would unfold to more than a camera's, by what its first bytes say."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return  # no picture: the reader raises
    if pixels > PIXELS:
        raise HiresError(f"the picture: {pixels:,} pixels; wanted at most {PIXELS:,}")


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LAST_SEED


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # so that NaN is refused
        raise HiresError(f"{name}: wanted numbers from {low:g} to {high:g}, found {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _finite(value: Tensor) -> float | None:
    """A number that JSON can hold; None where the network gave none."""
    return value.item() if math.isfinite(value) else None
