"""The growing energy of pairs: an image and a latent to a scalar U(x, z) (Han et al., CVPR 2020), two towers joined by dense layers."""

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks.energy import bound_layers
from hires.networks.growing import EqualizedLinear, GrowingEncoder, NetworkConfig, activate


class PairHead(nn.Module):
    """What an image's features and a latent have to say to each other, in fp32: a linear end for either tower, then two joint layers."""

    def __init__(self, latent: int, width: int):
        super().__init__()
        self.from_image = EqualizedLinear(width, width, gain=1, fp32=True)
        self.dense0 = EqualizedLinear(latent, width, fp32=True)
        self.dense1 = EqualizedLinear(width, width, fp32=True)
        self.from_latent = EqualizedLinear(width, width, gain=1, fp32=True)
        self.joint = EqualizedLinear(2 * width, 2 * width, fp32=True)
        self.head = EqualizedLinear(2 * width, 1, gain=1, fp32=True)

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """Features (B, width) and latents (B, d) -> scores (B,)."""
        of_x = self.from_image(features)
        of_z = self.from_latent(activate(self.dense1(activate(self.dense0(z)))))
        return self.head(activate(self.joint(torch.cat([of_x, of_z], 1)))).squeeze(1)


class PairEnergy(GrowingEncoder):
    """U: (image, latent) -> energy; a function of one pair alone, so no normalisation over the batch anywhere.

    The image's tower is the critic's body and grows; the latent's tower and the joint layers are its head and stay. `form` bounds the
    energy as in hires.networks.energy: `identity` leaves it free, `softplus` takes softplus of the score with spectral normalisation on
    every layer but the last.
    """

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False, form: str = "identity"):
        super().__init__(config, resolution, fading, outputs=1)
        self.levels["4x4"].head = PairHead(config.latent, config.channels(4))
        self.form = form
        if form == "softplus":
            bound_layers(self)

    def forward(self, x: Tensor, z: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] and latents (B, d) -> energies (B,), fp32."""
        score = self.levels["4x4"].head(self.features(x, alpha), z)
        return F.softplus(score) if self.form == "softplus" else score
