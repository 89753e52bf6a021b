"""The fixed networks of Zhai et al. 2016 (P3) at 28 and 32 pixels: convolutions of 5x5, pooled energies, batch norm in the generators.

The energy is conv, max-pool, conv, max-pool, a dense layer of 1,024 features and K experts, all free of batch norm. VCD's encoder has the
same body with batch norm; its decoder, and the generator of section 7.1 behind one more dense layer, is dense, then two transposed
convolutions of stride 2 to a sigmoid. Channels: 64 everywhere for grey pictures (MNIST), 128 in the energy, 256 in the others for colours
(CIFAR-10; SVHN's generator has 128); `network.width` scales them and the 1,024. The paper's pictures are in [0, 1]: they are mapped from
and to [-1, 1] in here. They neither grow nor fade.

Batch norm is by the statistics of the batch, as published, wherever transitions are made (batch_norm.of_the_batch). The width of section
7.1's first dense layer is not published: 1,024 here.
"""

import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F

from hires.networks.batch_norm import BatchNorm1d, BatchNorm2d
from hires.networks.expert_energy import binary_entropy, probabilities
from hires.networks.growing import NetworkConfig
from hires.networks.transition import POINT

RESOLUTIONS = (28, 32)
FEATURES = 1024  # of the dense layer below the experts, which the linear probe reads
NORM = {"eps": 1e-4, "momentum": 0.1}
EDGE = 1 - 1e-6  # a code's tanh stays within, so that its normal number is finite


class Network(nn.Module):
    """What the networks of this module share: their size, and Glorot's uniform start."""

    def __init__(self, resolution: int):
        super().__init__()
        if resolution not in RESOLUTIONS:
            raise ValueError(f"network=p3 at resolution {resolution}: these networks are fixed at {' or '.join(map(str, RESOLUTIONS))}")
        self.resolution, self.fading = resolution, False


@torch.no_grad()
def start(name: str, parameter: Tensor, generator: torch.Generator) -> None:
    """Set a parameter as Lasagne does: weights U(-a, a), a = sqrt(6 / ((inputs + outputs) kernel)), batch-norm gains 1, biases 0."""
    if parameter.dim() == 1:
        parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return
    bound = math.sqrt(6 / ((parameter.shape[0] + parameter.shape[1]) * parameter[0][0].numel()))
    parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)


class Energy(Network):
    """The pooled body and a head of `outputs` scores; a function of one image, for there is no batch norm in it."""

    def __init__(self, config: NetworkConfig, resolution: int, outputs: int):
        super().__init__(resolution)
        channels, dense = self.widths = config.scaled(64 if config.image_channels == 1 else 128, FEATURES)
        self.conv0 = nn.Conv2d(config.image_channels, channels, 5, padding=2)
        self.conv1 = nn.Conv2d(channels, channels, 5, padding=2)
        self.dense = nn.Linear(channels * (resolution // 4) ** 2, dense)
        self.head = nn.Linear(dense, outputs)

    def features(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> (B, 1024 width), what the head sees."""
        h = _unit(x, self.conv0)
        for conv in (self.conv0, self.conv1):
            h = F.relu(F.max_pool2d(conv(h), 2))  # the same as pooling what is above 0, at a quarter of the work
        return F.relu(self.dense(h.flatten(1)))


class ExpertEnergy(Energy):
    """U(x) = scale times the mean over j of H(sigmoid(s_j(x))), as hires.networks.expert_energy has it; scale = K is the paper's sum."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False, experts: int = 128, scale: float = 1.0):
        super().__init__(config, resolution, experts)
        self.scale = scale

    def forward(self, x: Tensor, alpha: float = 1.0, scores: bool = False) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), or the experts' scores (B, K) where `scores`; fp32."""
        s = self.head(self.features(x)).float()
        return s if scores else self.scale * binary_entropy(probabilities(s)).mean(1)


class GanEnergy(Energy):
    """The baseline's discriminator: one sigmoid unit D in place of the experts, U(x) = -ln D(x)."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        super().__init__(config, resolution, 1)

    def forward(self, x: Tensor, alpha: float = 1.0, scores: bool = False) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> energies (B,), or the unit's scores (B, 1) where `scores`; fp32."""
        s = self.head(self.features(x)).float()
        return s if scores else F.softplus(-s).squeeze(1)


class Encoder(Network):
    """VCD's encoder: image -> code, given as the normal number that the decoder squashes to the paper's h = tanh(batch norm)."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        super().__init__(resolution)
        (channels,) = config.scaled(_generators(config))
        self.widths = [channels, config.latent]
        self.conv0 = nn.Conv2d(config.image_channels, channels, 5, padding=2, bias=False)
        self.norm0 = BatchNorm2d(channels, **NORM)
        self.conv1 = nn.Conv2d(channels, channels, 5, padding=2, bias=False)
        self.norm1 = BatchNorm2d(channels, **NORM)
        self.dense = nn.Linear(channels * (resolution // 4) ** 2, config.latent, bias=False)
        self.norm2 = BatchNorm1d(config.latent, **NORM)

    def forward(self, x: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
        """Images (B, C, r, r) in [-1, 1] -> a (B, d) with erf(a / sqrt 2) = h, and its log-variance, -20 everywhere; both fp32."""
        h = _unit(x, self.conv0)
        for conv, norm in ((self.conv0, self.norm0), (self.conv1, self.norm1)):
            h = F.relu(F.max_pool2d(norm(conv(h)), 2))
        h = torch.tanh(self.norm2(self.dense(h.flatten(1)))).float()
        a = math.sqrt(2) * torch.erfinv(h.clamp(-EDGE, EDGE))
        return a, torch.full_like(a, POINT)


class _Synthesis(Network):
    """From `inputs` numbers to an image: a dense layer and two transposed convolutions, batch norm between them."""

    def __init__(self, config: NetworkConfig, resolution: int, inputs: int):
        super().__init__(resolution)
        (channels,) = config.scaled(_generators(config))
        self.widths, side = [inputs, channels], resolution // 4
        self.dense = nn.Linear(inputs, channels * side**2, bias=False)
        self.norm0 = BatchNorm1d(channels * side**2, **NORM)
        self.unflatten = nn.Unflatten(1, (channels, side, side))
        self.deconv0 = nn.ConvTranspose2d(channels, channels, 5, 2, 2, output_padding=1, bias=False)
        self.norm1 = BatchNorm2d(channels, **NORM)
        self.deconv1 = nn.ConvTranspose2d(channels, config.image_channels, 5, 2, 2, output_padding=1)

    def synthesis(self, h: Tensor) -> Tensor:
        """(B, inputs) -> images (B, C, r, r) in (-1, 1), fp32."""
        h = self.unflatten(F.relu(self.norm0(self.dense(h))))
        h = F.relu(self.norm1(self.deconv0(h)))
        return 2 * torch.sigmoid(self.deconv1(h).float()) - 1


class Decoder(_Synthesis):
    """VCD's decoder, on h = erf(a / sqrt 2) in (-1, 1): uniform for a ~ N(0, 1), the encoder's tanh for its codes."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        super().__init__(config, resolution, config.latent)

    def forward(self, a: Tensor, alpha: float = 1.0) -> Tensor:
        """Codes (B, d) -> images (B, C, r, r) in (-1, 1), fp32."""
        return self.synthesis(torch.erf(a.float() / math.sqrt(2)).to(self.dense.weight.dtype))


class Generator(_Synthesis):
    """The plain generator of section 7.1: z ~ N(0, I), a dense layer with batch norm, then as the decoder."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool = False):
        (inputs,) = config.scaled(FEATURES)
        super().__init__(config, resolution, inputs)
        self.first = nn.Linear(config.latent, inputs, bias=False)
        self.norm = BatchNorm1d(inputs, **NORM)

    def forward(self, z: Tensor, alpha: float = 1.0) -> Tensor:
        """Latents (B, d) -> images (B, C, r, r) in (-1, 1), fp32."""
        return self.synthesis(F.relu(self.norm(self.first(z.to(self.first.weight.dtype)))))


def _unit(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Images in [-1, 1] as the paper has them, in [0, 1], in the convolution's type and the order that it is fast in."""
    return ((x + 1) / 2).to(conv.weight.dtype, memory_format=torch.channels_last)


def _generators(config: NetworkConfig) -> int:
    """Channels of the networks that make pictures, before `network.width`."""
    return 64 if config.image_channels == 1 else 256
