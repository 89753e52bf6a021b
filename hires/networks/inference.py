"""The growing inference model I: images to the mean and log-variance of q(z | x) = N(mu, diag exp(logvar))."""

from torch import Tensor

from hires.networks.growing import GrowingEncoder, NetworkConfig


class Inference(GrowingEncoder):
    """I: image -> (mu, logvar), the critic's body with a head of 2 d outputs; no normalisation layer."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        super().__init__(config, resolution, fading, outputs=2 * config.latent)

    def forward(self, x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        """Images (B, C, r, r) in [-1, 1] -> mu (B, d), logvar (B, d), both fp32, logvar not clamped."""
        mu, logvar = super().forward(x, alpha).chunk(2, dim=1)
        return mu, logvar
