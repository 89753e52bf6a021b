"""The Gaussian of a run's codes: mean and covariance of z ~ q(z | x) over training pictures, to draw latents from instead of N(0, I)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from hires.errors import HiresError

MOMENTS = 4000  # pictures, where no number was asked for
LARGEST = 128  # pixels a side, where no number was asked for: at 1024x1024 a picture takes a second or more of two cores


@dataclass
class Aggregate:
    """N(mean, factor factor') of `pictures` codes; `factor` is the symmetric root, so a latent moves no further than it must."""

    mean: Tensor  # (d,) fp32
    factor: Tensor  # (d, d) fp32
    pictures: int
    eigenvalues: Tensor  # (d,) fp64 of the covariance, rising

    @property
    def kl(self) -> float:
        """KL(N(mean, covariance) || N(0, I)) in nats per dimension: 0 where the codes fill the prior."""
        values = self.eigenvalues.clamp_min(1e-12)
        return 0.5 * ((values - 1 - values.log()).mean() + self.mean.double().square().mean()).item()

    def place(self, w: Tensor) -> Tensor:
        """mean + factor w of w (B, d) ~ N(0, I), as Bundle.place has it."""
        return self.mean + w @ self.factor.T

    def told(self) -> dict:
        """What config.json and the card say of it."""
        middle = self.eigenvalues[len(self.eigenvalues) // 2]
        spread = [round(value.item(), 4) for value in (self.eigenvalues[0], middle, self.eigenvalues[-1])]
        return {"pictures": self.pictures, "kl_per_dimension": round(self.kl, 4), "variances": spread, "diagonal": self.diagonal}

    @property
    def diagonal(self) -> bool:
        """Whether correlations were left out, as there were no more pictures than dimensions."""
        return self.pictures <= len(self.mean)


@torch.no_grad()
def fit(posterior: Callable[[Tensor], tuple[Tensor, Tensor]], pictures: Iterable[Tensor]) -> Aggregate:
    """The moments of z ~ N(mu, exp(logvar)) over batches of pictures (B, C, r, r) in [-1, 1], summed in fp64 as they come.

    The noise's part is exact: C = Cov(mu) + mean exp(logvar). No more pictures than dimensions give a diagonal. Raises HiresError for
    fewer than two pictures or codes that are not finite.
    """
    count = 0
    total = squares = noise = torch.zeros((), dtype=torch.float64)
    for x in pictures:
        mu, logvar = (part.double().cpu() for part in posterior(x))
        count, total, squares = count + len(mu), total + mu.sum(0), squares + mu.T @ mu
        noise = noise + logvar.exp().sum(0)
    if count < 2:
        raise HiresError(f"moments of {count} pictures: wanted at least 2")
    mean = total / count
    covariance = (squares - count * torch.outer(mean, mean)) / (count - 1) + torch.diag(noise / count)
    if not covariance.isfinite().all():
        raise HiresError("moments: the inference model's codes are not all finite")
    if count <= len(mean):
        covariance = torch.diag(covariance.diagonal())
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0)
    return Aggregate(mean.float(), ((vectors * values.sqrt()) @ vectors.T).float().contiguous(), count, values)
