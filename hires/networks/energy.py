"""The growing energy-based model: images to a scalar energy U = -f_alpha."""

import math

from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks.growing import EqualizedConv2d, EqualizedLinear, GrowingEncoder, NetworkConfig
from hires.networks.spectral import normalise


def bound_layers(network: nn.Module) -> None:
    """Put spectral normalisation on every equalised layer but the one named head."""
    for name, module in list(network.named_modules()):
        if isinstance(module, EqualizedConv2d | EqualizedLinear) and not name.endswith("head"):
            # a normalised random layer shrinks its input; sqrt(2) keeps the signal and its gradient alive through many levels
            module.scale = math.sqrt(2)
            nn.init.ones_(module.weight)  # torch wants numbers to start from; initialise() sets weights and singular vectors
            normalise(module)


class Energy(GrowingEncoder):
    """U: image -> energy; a function of one image alone, so no normalisation over the batch anywhere.

    `form` bounds the energy: `identity` leaves it free (the objective adds an L2 term), `softplus` takes softplus of the score with
    spectral normalisation on every layer but the last (P2; the last layer stays free so the energy keeps a scale).
    """

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False, form: str = "identity"):
        super().__init__(config, resolution, fading, outputs=1)
        self.form = form
        if form == "softplus":
            bound_layers(self)

    def forward(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32."""
        score = super().forward(x, alpha).squeeze(1)
        return F.softplus(score) if self.form == "softplus" else score
