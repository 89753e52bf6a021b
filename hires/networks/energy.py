"""The growing energy-based model: images to a scalar energy U = -f_alpha."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
import torch.nn.functional as F

from hires.networks.growing import EqualizedConv2d, EqualizedLinear, GrowingEncoder, NetworkConfig


class Energy(GrowingEncoder):
    """U: image -> energy; a function of one image alone, so no normalisation over the batch anywhere.

    `form` bounds the energy: `identity` leaves it free (the objective adds an L2 term), `softplus` takes softplus of the score with spectral
    normalisation on every layer but the last (P2; the last layer stays free so the energy keeps a scale).
    """

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False, form: str = "identity"):
        super().__init__(config, resolution, fading, outputs=1)
        self.form = form
        if form == "softplus":
            for name, module in list(self.named_modules()):
                if isinstance(module, EqualizedConv2d | EqualizedLinear) and not name.endswith("head"):
                    module.scale = 1.0
                    nn.init.normal_(module.weight)  # the power iteration starts from a real matrix; initialise() sets the weights proper
                    spectral_norm(module)

    def forward(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32."""
        score = super().forward(x, alpha).squeeze(1)
        return F.softplus(score) if self.form == "softplus" else score
