"""What the three growing networks are made of: levels, equalised layers, pixel norm and the fade-in.

The layout is ProGAN's (Karras et al. 2018): channels(r) = min(base / r, max), two 3x3 convolutions a level, He-scaled weights at run time,
1x1 projections to and from RGB. A network is built for one resolution and one of two states, *fading* (the projection of the level
below is still there, blended in with 1 - alpha) and *stable* (it is gone), so every parameter it holds is used in every step.
"""

from dataclasses import dataclass
import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
import torch.nn.functional as F

from hires.ground.ranges import setting

LEAK = 0.2  # slope of the leaky ReLU (ProGAN)
KINDS = ("growing", "dcgan32", "dcgan64", "p2", "p3", "p4")  # the others of hires.networks.FIXED


@dataclass
class NetworkConfig:
    """Size of the three networks: ProGAN's by default (23.08 M parameters in the generator at 1024x1024)."""

    kind: str = setting("growing", among=KINDS)
    latent: int = setting(512, at_least=1)  # d, the number of latent dimensions
    channels_base: int = setting(16384, at_least=1)  # channels(r) = min(channels_base / r, channels_max)
    channels_max: int = setting(512, at_least=1)
    convs: int = setting(2, at_least=1)  # 3x3 convolutions a level
    width: float = setting(1.0, above=0, below=math.inf)  # a factor on the channels of the fixed networks; 1 as published
    # behind the convolutions of dcgan32's and dcgan64's energy: the paper's (none, batch norm) | layer norm, of one image at a time
    energy_norm: str = setting("published", among=("published", "layer"))
    classes: int = setting(0, at_least=0)  # labels that p4's energy reads beside a picture; 0 = none
    image_channels: int = setting(3, among=(1, 3))
    # separate: convolution, activation, mean, which draws better faces (docs/records/recipe.md); fused: a level's last convolution and the
    # mean are one convolution of stride 2, and the activation follows, as ProGAN's code has it, at 4/9 of that convolution's cost
    downsampling: str = setting("separate", among=("separate", "fused"))

    def channels(self, resolution: int) -> int:
        """Feature maps at `resolution`."""
        return max(1, min(self.channels_base // resolution, self.channels_max))

    def behind(self, published: str) -> str:
        """The norm behind the convolutions of an energy that has `published` (none, batch) in its paper: that, or layer."""
        return published if self.energy_norm == "published" else self.energy_norm

    def scaled(self, *channels: int) -> list[int]:
        """The channels of a fixed network's layers at this `width`."""
        return [max(1, round(self.width * count)) for count in channels]


def level_name(resolution: int) -> str:
    """'64x64': the part of a parameter's name that tells its resolution."""
    return f"{resolution}x{resolution}"


def resolutions_up_to(resolution: int) -> list[int]:
    """[4, 8, ..., resolution]; raises ValueError unless `resolution` is a power of two from 4 up."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution={resolution}: wanted a power of two, at least 4")
    return [2**k for k in range(2, resolution.bit_length())]


class EqualizedConv2d(nn.Module):
    """Same-size convolution whose weight is stored as N(0, 1) and scaled by gain / sqrt(fan_in) at run time (ProGAN §4.1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.scale = gain / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class UpsamplingConv2d(EqualizedConv2d):
    """Nearest-neighbour upsampling, then the 3x3 convolution, as one transposed convolution: 4 products a pixel for 9."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2H, 2W)."""
        kernel = over_boxes(self.weight * (4 * self.scale)).flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class DownsamplingConv2d(EqualizedConv2d):
    """The 3x3 convolution, then the mean of each 2x2 box, as one convolution of stride 2: 4 products a pixel for 9."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, 2H, 2W) -> (B, outputs, H, W)."""
        return F.conv2d(x, over_boxes(self.weight * self.scale), self.bias, stride=2, padding=1)


def over_boxes(kernel: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (out, in, 4, 4): the kernel that gives the mean of a 2x2 box of the first one's outputs."""
    return F.avg_pool2d(kernel, 2, stride=1, padding=1)


class EqualizedLinear(nn.Module):
    """Dense layer with the same run-time scale; `fp32` computes in fp32 whatever the weights' type (heads: energies, log-variances)."""

    def __init__(self, inputs: int, outputs: int, gain: float = math.sqrt(2), fp32: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.scale = gain / math.sqrt(inputs)
        self.fp32 = fp32

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        if self.fp32:
            return F.linear(x.float(), self.weight.float() * self.scale, self.bias.float())
        return F.linear(x, self.weight * self.scale, self.bias)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU."""
    return F.leaky_relu(x, LEAK, inplace=True)  # in place: a convolution does not need its output again


class _ActivatedAndNormalised(torch.autograd.Function):
    """In place of its argument, which a convolution does not need again; keeps its result alone, which the next layer keeps anyway."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        F.leaky_relu_(x, LEAK)
        # through the norm: its kernel reads a pixel's channels at once, three times as fast on a CPU as squares and their mean
        scale = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_().div_(x.shape[1]).add_(1e-8).rsqrt_()
        y = x.mul_(scale)
        ctx.mark_dirty(x)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = torch.mul(g, y).mean(1, keepdim=True)
        g = torch.addcmul(g, y, along, value=-1).mul_(scale)
        return torch.ops.aten.leaky_relu_backward(g, y, LEAK, True)  # y has the sign of what was activated


def activate_and_normalise(x: Tensor) -> Tensor:
    """Leaky ReLU and pixel norm: features over their root mean square, eps 1e-8 (ProGAN §4.2); (B, C, H, W), in place."""
    return _ActivatedAndNormalised.apply(x)


def upsample(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), nearest neighbour."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def downsample(x: Tensor) -> Tensor:
    """(B, C, 2H, 2W) -> (B, C, H, W), mean of each 2x2 box."""
    return F.avg_pool2d(x, 2)


def fade(below: Tensor, here: Tensor, alpha: float) -> Tensor:
    """(1 - alpha) below + alpha here."""
    return torch.lerp(below, here, alpha)


def fade_images(images: Tensor, alpha: float) -> Tensor:
    """Real images as the networks see them in a fade: blended with their own 2x down-and-up version, so data and networks grow together."""
    return images if alpha >= 1 else fade(upsample(downsample(images)), images, alpha)


class EncoderLevel(nn.Module):
    """One resolution of a network that reads images: convolutions, then a 2x2 mean."""

    def __init__(self, config: NetworkConfig, resolution: int, reads_rgb: bool):
        super().__init__()
        here, below = config.channels(resolution), config.channels(resolution // 2)
        if reads_rgb:
            self.from_rgb = EqualizedConv2d(config.image_channels, here, 1)
        self.convs, self.fused = config.convs, config.downsampling == "fused"
        for i in range(config.convs - 1):
            setattr(self, f"conv{i}", EqualizedConv2d(here, here, 3))
        last = DownsamplingConv2d if self.fused else EqualizedConv2d
        setattr(self, f"conv{config.convs - 1}", last(here, below, 3))

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels(r), r, r) -> (B, channels(r/2), r/2, r/2)."""
        for i in range(self.convs):
            h = activate(getattr(self, f"conv{i}")(h))
        return h if self.fused else downsample(h)


class EncoderTop(nn.Module):
    """The 4x4 level of a network that reads images: convolution, dense layer, head."""

    def __init__(self, config: NetworkConfig, outputs: int, reads_rgb: bool):
        super().__init__()
        channels = config.channels(4)
        if reads_rgb:
            self.from_rgb = EqualizedConv2d(config.image_channels, channels, 1)
        self.conv0 = EqualizedConv2d(channels, channels, 3)
        self.dense = EqualizedLinear(channels * 16, channels)
        self.head = EqualizedLinear(channels, outputs, gain=1, fp32=True)

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels(4), 4, 4) -> features (B, channels(4)); the network that owns the head applies it."""
        h = activate(self.conv0(h))
        return activate(self.dense(h.flatten(1)))


class GrowingEncoder(nn.Module):
    """Images to a vector: the body that the energy and the inference model share (ProGAN's critic without minibatch statistics)."""

    def __init__(self, config: NetworkConfig, resolution: int, fading: bool, outputs: int):
        super().__init__()
        self.resolution, self.fading = resolution, fading and resolution > 4
        shown = {resolution, resolution // 2} if self.fading else {resolution}
        self.levels = nn.ModuleDict()
        for r in resolutions_up_to(resolution):
            level = EncoderTop(config, outputs, r in shown) if r == 4 else EncoderLevel(config, r, r in shown)
            self.levels[level_name(r)] = level

    def forward(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> (B, outputs), fp32; `alpha` is used in a fade alone."""
        return self.levels["4x4"].head(self.features(x, alpha))

    def features(self, x: Tensor, alpha: float = 1.0) -> Tensor:
        """Images (B, C, r, r) in [-1, 1] -> (B, channels(4)), what the head sees."""
        top = self.levels[level_name(self.resolution)]
        x = x.to(top.from_rgb.weight.dtype, memory_format=torch.channels_last)
        h = top(activate(top.from_rgb(x)))
        if self.resolution == 4:
            return h
        below = self.levels[level_name(self.resolution // 2)]
        if self.fading:
            h = fade(activate(below.from_rgb(downsample(x))), h, alpha)
        for r in reversed(resolutions_up_to(self.resolution // 2)):
            h = self.levels[level_name(r)](h)
        return h
