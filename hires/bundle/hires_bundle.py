"""Loads a bundle written by `hires export`: mostly a generator, an inference model and an energy. Needs torch and safetensors alone.

    import hires_bundle                                # this file lies in the bundle's folder
    bundle = hires_bundle.load("the/bundle/folder")
    x = bundle.sample(seeds=range(3))                  # pictures (3, C, r, r), float in [-1, 1]
    mu, logvar = bundle.infer(x)                       # q(z | x) = N(mu, diag exp(logvar)), (3, d) each
    x_hat = bundle.reconstruct(x)                      # pictures of mu, like x
    energy = bundle.score(x)                           # (3,), lower is more like the data
    way = bundle.walk([0, 1], steps=8)                 # 9 pictures from seed 0's to seed 1's

Which networks there are, config.json and the model card say; those that a system does not have are None. A bundle with `chains` in its
config.json draws by Langevin steps on the energy, `bundle.sample` takes them. Where `bundle.aggregate` is there, latents of seeds come from
the Gaussian of the training pictures' codes; `bundle.sample([0, 1, 2], prior="standard")` draws them from N(0, I).

The methods above take as many pictures as one likes, some at a time through the networks, and keep no graph. The networks themselves,
`bundle.generator` and its like, are `nn.Module`s in eval mode whose parameters take no gradient; gradients with respect to inputs work.
On a GPU torch computes convolutions in TF32 unless `torch.backends.cudnn.allow_tf32 = False`: pictures then differ by more than rounding.
This file's licence: Apache-2.0.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import hashlib
from itertools import pairwise
import json
from pathlib import Path
import re

from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from torch import Tensor, nn
import torch.nn.functional as F

FORMAT = 1  # version of config.json and of the names in the safetensors files
LEAK = 0.2  # slope of the leaky ReLU
EDGE = 1 - 1e-6  # of a code in (-1, 1), so that its normal number is finite
PARALLEL = 1e-4  # sine of the angle under which two latents count as parallel


def _leaky(h: Tensor) -> Tensor:
    return F.leaky_relu(h, LEAK, inplace=True)  # in place: always on the output of a layer that does not need it again


def _pixel_norm(h: Tensor) -> Tensor:
    # through the norm: its kernel reads a pixel's channels at once, three times as fast on a CPU as squares and their mean
    return h * torch.rsqrt(torch.linalg.vector_norm(h, dim=1, keepdim=True).square() / h.shape[1] + 1e-8)


def _convs(level: nn.Module) -> list[nn.Module]:
    return [module for name, module in level.named_children() if name.startswith("conv")]


def _require_latents(z: Tensor, latent: int) -> None:
    if z.ndim != 2 or z.shape[1] != latent:
        raise ValueError(f"latents of shape {tuple(z.shape)}: wanted (B, {latent})")


def _pictures(x: Tensor) -> Tensor:
    """Pictures as a person passes them: bytes, or floats of another range, would be taken in silence for something else."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise ValueError(f"pictures of type {x.dtype if isinstance(x, Tensor) else type(x).__name__}: wanted a float tensor in [-1, 1]")
    if x.numel() and not x.abs().max() <= 1.001:
        raise ValueError(f"pictures from {x.min():g} to {x.max():g}: wanted numbers in [-1, 1]; of bytes, x / 127.5 - 1")
    return x


def _require_images(x: Tensor, channels: int, resolution: int) -> None:
    if x.ndim != 4 or tuple(x.shape[1:]) != (channels, resolution, resolution):
        raise ValueError(f"images of shape {tuple(x.shape)}: wanted (B, {channels}, {resolution}, {resolution})")


class _GrowingGenerator(nn.Module):
    """Latents (B, d) -> images (B, C, r, r), fp32, about [-1, 1] and not clamped; ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__()
        self.latent, self.resolution, self.squashes = config["latent"], config["resolution"], config.get("squashes", False)
        width = config["widths"]
        self.levels = nn.ModuleDict()
        for r in _resolutions(self.resolution):
            level, here = nn.Module(), width[str(r)]
            if r == 4:
                level.dense = nn.Linear(self.latent, here * 16)
                level.conv0 = nn.Conv2d(here, here, 3, padding=1)
            else:
                for i in range(config["convs"]):
                    level.add_module(f"conv{i}", nn.Conv2d(width[str(r // 2)] if i == 0 else here, here, 3, padding=1))
            if r == self.resolution:
                level.to_rgb = nn.Conv2d(here, config["image_channels"], 1)
            self.levels[f"{r}x{r}"] = level

    def forward(self, z: Tensor) -> Tensor:
        _require_latents(z, self.latent)
        if self.squashes:  # N(0, 1) into uniform numbers from -1 to 1
            z = torch.erf(z * 0.5**0.5)
        h = self.levels["4x4"].dense(z).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        h = _pixel_norm(_leaky(h))
        for name, level in self.levels.items():
            if name != "4x4":
                h = F.interpolate(h, scale_factor=2, mode="nearest")
            for conv in _convs(level):
                h = _pixel_norm(_leaky(conv(h)))
        return level.to_rgb(h)


class _GrowingEncoder(nn.Module):
    def __init__(self, config: dict, outputs: int):
        super().__init__()
        self.image_channels, self.resolution = config["image_channels"], config["resolution"]
        self.fused = config.get("downsampling", "separate") == "fused"  # a level's last activation follows the mean
        width = config["widths"]
        self.levels = nn.ModuleDict()
        for r in reversed(_resolutions(self.resolution)):
            level, here = nn.Module(), width[str(r)]
            if r == self.resolution:
                level.from_rgb = nn.Conv2d(self.image_channels, here, 1)
            if r == 4:
                level.conv0 = nn.Conv2d(here, here, 3, padding=1)
                level.dense = nn.Linear(here * 16, here)
                level.head = nn.Linear(here, outputs)
            else:
                for i in range(config["convs"]):
                    below = width[str(r // 2)] if i == config["convs"] - 1 else here
                    level.add_module(f"conv{i}", nn.Conv2d(here, below, 3, padding=1))
            self.levels[f"{r}x{r}"] = level

    def forward(self, x: Tensor) -> Tensor:
        return self.levels["4x4"].head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        _require_images(x, self.image_channels, self.resolution)
        h = x.contiguous(memory_format=torch.channels_last)
        for name, level in self.levels.items():
            if name == f"{self.resolution}x{self.resolution}":
                h = _leaky(level.from_rgb(h))
            *inner, last = _convs(level)
            for conv in inner:
                h = _leaky(conv(h))
            box = 1 if name == "4x4" else 2
            h = _leaky(F.avg_pool2d(last(h), box)) if self.fused else F.avg_pool2d(_leaky(last(h)), box)
        return _leaky(level.dense(h.flatten(1)))


class _GrowingInference(_GrowingEncoder):
    """Images (B, C, r, r) in [-1, 1] -> mu (B, d), logvar (B, d), fp32; ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__(config, 2 * config["latent"])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = super().forward(x).chunk(2, dim=1)
        return mu, logvar


class _GrowingEnergy(_GrowingEncoder):
    """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32; ValueError for another shape.

    Of any sign, above 0 (softplus), or the scaled mean entropy of yes-or-no answers in nats (experts).
    """

    def __init__(self, config: dict):
        super().__init__(config, config["experts"] if config["energy_form"] == "experts" else 1)
        self.form = config["energy_form"]
        self.scale = config.get("energy_scale", 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return _energies(super().forward(x), self.form, self.scale)


def _energies(scores: Tensor, form: str, scale: float) -> Tensor:
    if form == "experts":
        p = torch.sigmoid(scores).clamp(1e-4, 1 - 1e-4)
        return -scale * (p * p.log() + (1 - p) * (1 - p).log()).mean(1)
    return F.softplus(scores.squeeze(1)) if form == "softplus" else scores.squeeze(1)


class _GrowingPairEnergy(_GrowingEncoder):
    """Pairs of images (B, C, r, r) in [-1, 1] and latents (B, d) -> energies (B,), fp32; ValueError for another shape."""

    def __init__(self, config: dict):
        width, latent = config["widths"]["4"], config["latent"]
        super().__init__(config, 1)
        self.form, self.latent = config["energy_form"], latent
        head = nn.Module()
        sizes = {"from_image": (width, width), "dense0": (latent, width), "dense1": (width, width), "from_latent": (width, width)}
        for name, (inputs, outputs) in {**sizes, "joint": (2 * width, 2 * width), "head": (2 * width, 1)}.items():
            head.add_module(name, nn.Linear(inputs, outputs))
        self.levels["4x4"].head = head

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        _require_latents(z, self.latent)
        head = self.levels["4x4"].head
        of_x = head.from_image(self.features(x))
        of_z = head.from_latent(_leaky(head.dense1(_leaky(head.dense0(z)))))
        score = head.head(_leaky(head.joint(torch.cat([of_x, of_z], 1)))).squeeze(1)
        return F.softplus(score) if self.form == "softplus" else score


class _EnergyOfImages(nn.Module):
    """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32: of each image paired with the mean of its posterior, U(x, mu(x))."""

    def __init__(self, pairs: nn.Module, inference: nn.Module):
        super().__init__()
        self.pairs, self.inference = pairs, inference

    def forward(self, x: Tensor) -> Tensor:
        return self.pairs(x, self.inference(x)[0])


_SIDES = {28: (7, 2), 32: (4, 3), 64: (4, 4), 128: (4, 5)}  # resolution -> smallest square, doublings of it
_DCGAN32 = {"generator": [512, 512, 256, 128], "inference": [64, 128, 256, 512], "energy": [64, 128, 256, 256]}


def _fixed_widths(config: dict, name: str) -> list[int]:
    return config["widths"].get(name) or _DCGAN32[name]  # bundles of before the others do not tell


class _FixedGenerator(nn.Module):
    """Latents (B, d) -> images (B, C, r, r), fp32, in (-1, 1); ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__()
        self.latent, self.resolution = config["latent"], config["resolution"]
        inputs, widths = self.latent, _fixed_widths(config, "generator")
        for i, width in enumerate(widths):
            kernel, stride, padding = (_SIDES[self.resolution][0], 1, 0) if i == 0 else (4, 2, 1)
            # its batch norm is folded in, hence the bias
            self.add_module(f"deconv{i}", nn.ConvTranspose2d(inputs, width, kernel, stride, padding))
            inputs = width
        self.sizes = len(widths)
        self.to_rgb = nn.ConvTranspose2d(inputs, config["image_channels"], 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        _require_latents(z, self.latent)
        h = z[:, :, None, None]
        for i in range(self.sizes):
            h = F.relu(self.get_submodule(f"deconv{i}")(h))
        return self.to_rgb(h).tanh()


class _FixedEncoder(nn.Module):
    def __init__(self, config: dict, name: str):
        super().__init__()
        self.image_channels, self.resolution = config["image_channels"], config["resolution"]
        self.layered = name == "energy" and config.get("energy_norm") == "layer"
        inputs, self.last, self.side = self.image_channels, _fixed_widths(config, name)[-1], _SIDES[self.resolution][0]
        for i, width in enumerate(_fixed_widths(config, name)):
            kernel, stride = (3, 1) if i == 0 else (4, 2)
            self.add_module(f"conv{i}", nn.Conv2d(inputs, width, kernel, stride, 1, bias=name in config.get("normed", [])))
            if self.layered:
                self.add_module(f"norm{i}", nn.GroupNorm(1, width))
            inputs = width

    def features(self, x: Tensor) -> Tensor:
        _require_images(x, self.image_channels, self.resolution)
        for i, conv in enumerate(_convs(self)):
            x = _leaky(self.get_submodule(f"norm{i}")(conv(x)) if self.layered else conv(x))
        return x


class _FixedInference(_FixedEncoder):
    """Images (B, C, r, r) in [-1, 1] -> mu (B, d), logvar (B, d), fp32; ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__(config, "inference")
        self.mu = nn.Conv2d(self.last, config["latent"], self.side)
        self.logvar = nn.Conv2d(self.last, config["latent"], self.side)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.features(x)
        return self.mu(h).flatten(1), self.logvar(h).flatten(1)


class _FixedEnergy(_FixedEncoder):
    """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32, of any sign or above 0 (softplus); ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__(config, "energy")
        self.form = config["energy_form"]
        self.head = nn.Conv2d(self.last, 1, self.side)

    def forward(self, x: Tensor) -> Tensor:
        score = self.head(self.features(x)).flatten()
        return F.softplus(score) if self.form == "softplus" else score


class _FixedPairEnergy(nn.Module):
    """Pairs of images (B, C, r, r) in [-1, 1] and latents (B, d) -> energies (B,) above 0, fp32; ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__()
        self.dimensions, self.image_channels, self.resolution = config["latent"], config["image_channels"], config["resolution"]
        *steps, top, wide = config["widths"]["energy"]
        layers, inputs = [], self.image_channels
        for width in steps:
            layers += [nn.Conv2d(inputs, width, 3, 1, 1), nn.Conv2d(width, width, 4, 2, 1)]
            inputs = width
        self.image = nn.ModuleList([*layers, nn.Conv2d(inputs, top, 3, 1, 1), nn.Conv2d(top, wide, _SIDES[self.resolution][0])])
        widths = [self.dimensions, *config["widths"]["latent"]]
        self.latent = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.joint, self.head = nn.Linear(2 * wide, 2 * wide), nn.Linear(2 * wide, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        _require_images(x, self.image_channels, self.resolution)
        _require_latents(z, self.dimensions)
        both = torch.cat([self._through(self.image, x).flatten(1), self._through(self.latent, z)], 1)
        return F.softplus(self.head(F.leaky_relu(self.joint(both), 0.1)).squeeze(1))

    @staticmethod
    def _through(layers: nn.ModuleList, h: Tensor) -> Tensor:
        for layer in layers[:-1]:
            h = F.leaky_relu(layer(h), 0.1)
        return layers[-1](h)


class _PooledGenerator(nn.Module):
    """Latents (B, d) -> images (B, C, r, r), fp32, in (-1, 1); ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__()
        self.latent, self.squashes, side = config["latent"], config.get("squashes", False), config["resolution"] // 4
        inputs, width = config["widths"]["generator"]
        if not self.squashes:
            self.first = nn.Linear(self.latent, inputs)
        self.dense = nn.Linear(inputs, width * side**2)
        self.unflatten = nn.Unflatten(1, (width, side, side))
        self.deconv0 = nn.ConvTranspose2d(width, width, 5, 2, 2, output_padding=1)
        self.deconv1 = nn.ConvTranspose2d(width, config["image_channels"], 5, 2, 2, output_padding=1)

    def forward(self, z: Tensor) -> Tensor:
        _require_latents(z, self.latent)
        h = torch.erf(z * 0.5**0.5) if self.squashes else F.relu(self.first(z))
        h = self.unflatten(F.relu(self.dense(h)))
        return 2 * torch.sigmoid(self.deconv1(F.relu(self.deconv0(h)))) - 1


class _PooledEncoder(nn.Module):
    def __init__(self, config: dict, name: str):
        super().__init__()
        self.image_channels, self.resolution = config["image_channels"], config["resolution"]
        channels, features = config["widths"][name]
        self.conv0 = nn.Conv2d(self.image_channels, channels, 5, padding=2)
        self.conv1 = nn.Conv2d(channels, channels, 5, padding=2)
        self.dense = nn.Linear(channels * (self.resolution // 4) ** 2, features)

    def features(self, x: Tensor) -> Tensor:
        _require_images(x, self.image_channels, self.resolution)
        h = (x + 1) / 2
        for conv in _convs(self):
            h = F.relu(F.max_pool2d(conv(h), 2))
        return self.dense(h.flatten(1))


class _PooledInference(_PooledEncoder):
    """Images (B, C, r, r) in [-1, 1] -> mu (B, d), logvar (B, d), fp32; a code is a point, its logvar -20. ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__(config, "inference")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = 2**0.5 * torch.erfinv(torch.tanh(self.features(x)).clamp(-EDGE, EDGE))
        return mu, torch.full_like(mu, -20.0)


class _PooledEnergy(_PooledEncoder):
    """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32, above 0 (softplus) or of experts; ValueError for another shape."""

    def __init__(self, config: dict):
        super().__init__(config, "energy")
        self.form, self.scale = config["energy_form"], config.get("energy_scale", 1.0)
        self.head = nn.Linear(config["widths"]["energy"][1], config["experts"] if self.form == "experts" else 1)

    def forward(self, x: Tensor) -> Tensor:
        return _energies(self.head(F.relu(self.features(x))), self.form, self.scale)


class _ResidualEnergy(nn.Module):
    """Images (B, C, r, r) in [-1, 1] -> energies (B,), fp32, of any sign; ValueError for another shape.

    Where it has classes, of images and labels (B,); of images alone -log sum_y exp(-U(x, y)).
    """

    def __init__(self, config: dict):
        super().__init__()
        self.classes = config.get("classes", 0)
        self.image_channels, self.resolution, self.form = config["image_channels"], config["resolution"], config["energy_form"]
        narrow, wide = config["widths"]["energy"]
        self.from_image = self._conv(self.image_channels, narrow)
        self.blocks = nn.ModuleList()
        for inputs, outputs in pairwise([narrow] * 3 + [wide] * 4):
            block = nn.Module()
            block.conv0, block.conv1 = self._conv(inputs, outputs), self._conv(outputs, outputs)
            block.beside = self._conv(inputs, outputs) if inputs != outputs else nn.Identity()
            for name, channels in (("bias0", inputs), ("bias1", outputs), ("gain", outputs)) if self.classes else ():
                block.register_parameter(name, nn.Parameter(torch.empty(self.classes, channels)))
            self.blocks.append(block)
        self.head = nn.Linear(wide, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        _require_images(x, self.image_channels, self.resolution)
        if self.classes and y is None:
            each = [self(x, torch.full_like(x[:, 0, 0, 0], k, dtype=torch.int64)) for k in range(self.classes)]
            return -(-torch.stack(each)).logsumexp(0)
        h = _leaky(self.from_image((x + 1) / 2))
        for i, block in enumerate(self.blocks):
            if self.classes:
                bias0, bias1, gain = (of[y, :, None, None] for of in (block.bias0, block.bias1, block.gain))
                inside = gain * block.conv1(_leaky(block.conv0(h + bias0)) + bias1)
            else:
                inside = block.conv1(_leaky(block.conv0(h)))
            h = block.beside(h) + inside
            h = _leaky(F.avg_pool2d(h, 2) if i % 2 == 0 else h)
        return _energies(self.head(h.relu().sum((2, 3))), self.form, 1.0)

    @staticmethod
    def _conv(inputs: int, outputs: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


_FIXED = {"generator": _FixedGenerator, "inference": _FixedInference, "energy": _FixedEnergy, "variational": _FixedEnergy}
_NETWORKS: dict[str, dict[str, type[nn.Module]]] = {
    "growing": {"generator": _GrowingGenerator, "inference": _GrowingInference, "energy": _GrowingEnergy, "variational": _GrowingEnergy},
    **dict.fromkeys(("dcgan32", "dcgan64", "p2"), _FIXED),
    "p3": {"generator": _PooledGenerator, "inference": _PooledInference, "energy": _PooledEnergy},
    "p4": {"energy": _ResidualEnergy, "variational": _ResidualEnergy},
}
LAST_SEED = 2**32 - 1
_HAS = {"generator": True, "inference": True, "energy": True, "variational": False}  # unless config.json says has_…
_CHAINS = {"noise_first": bool, "steps": int, "step_size": float, "noise": float, "reach": float}  # bundles of old lack the first
_KEYS = {"kind": str, "resolution": int, "latent": int, "image_channels": int, "convs": int, "widths": dict, "energy_form": str}

_MOST = {"resolution": 2**14, "latent": 2**20, "image_channels": 2**10, "convs": 2**6, "classes": 2**20}


def _resolutions(resolution: int) -> list[int]:
    return [2**k for k in range(2, resolution.bit_length())]


def die(seed: int) -> torch.Generator:
    """The generator of a seed from 0 to 2^32 - 1, whose bits are all that torch's takes on the CPU; raises ValueError for another one."""
    if not 0 <= seed <= LAST_SEED:
        raise ValueError(f"seed {seed}: wanted 0 to {LAST_SEED}: torch's generator does not tell others apart from these")
    return torch.Generator().manual_seed(seed)


def latents(seeds: Iterable[int], latent: int) -> Tensor:
    """Latents z ~ N(0, I), (N, latent) float of N seeds, on the CPU: seed n gives the same row in any list and on any machine.

    Raises ValueError for a seed below 0 or above 2^32 - 1.
    """
    rows = [torch.randn(latent, generator=die(seed)) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, latent)


def lerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Straight line from a (B, d) at t = 0 to b (B, d) at t = 1; t is a number or (B, 1)."""
    return a + t * (b - a)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Great circle from a (B, d) at t = 0 to b (B, d) at t = 1, the norm going linearly from |a| to |b|; t is a number or (B, 1).

    A straight line in latent space passes through norms that N(0, I_d) never has; this does not. Vectors nearly parallel (or opposite,
    where no one circle is the shortest) take the straight line instead.
    """
    norm_a, norm_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    unit_a, unit_b = a / norm_a.clamp_min(1e-12), b / norm_b.clamp_min(1e-12)
    # 2 atan2(|u - v|, |u + v|) and not acos(u . v), which loses half its digits at small angles
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=-1, keepdim=True), (unit_a + unit_b).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    parallel = sine.abs() < PARALLEL
    direction = (((1 - t) * angle).sin() * unit_a + (t * angle).sin() * unit_b) / torch.where(parallel, 1.0, sine)
    return torch.where(parallel, lerp(a, b, t), lerp(norm_a, norm_b, t) * direction)


def langevin(
    energy: Callable[[Tensor], Tensor],
    start: Tensor,
    dice: list[torch.Generator],
    steps: int,
    step_size: float,
    noise: float,
    reach: float,
    noise_first: bool = False,
) -> Tensor:
    """Where Langevin leads from pictures `start` (B, C, r, r): (B, C, r, r) in [-1, 1]; row i's noise e ~ N(0, I) comes from dice[i].

    `steps` times x <- clamp(x - clamp(step_size r^2 dU/dx, -reach, reach) + noise e, -1, 1), as the chains of the training; with
    `noise_first` x + noise e is where the slope is taken and the step begins.
    """
    x, size = start.detach(), step_size * start.shape[-1] ** 2
    for _ in range(steps):
        kick = noise * torch.stack([torch.randn(x.shape[1:], generator=die) for die in dice]).to(x.device)
        leaf = (x + kick if noise_first else x).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(energy(leaf).sum(), leaf)
        moved = leaf.detach() - (size * slope).clamp(-reach, reach)
        x = (moved if noise_first else moved + kick).clamp(-1, 1)
    return x


def pictures_at_once(resolution: int) -> int:
    """Pictures of r x r pixels to compute in one forward pass: 64 up to 256 x 256, then as many as have the same number of pixels."""
    return max(1, min(64, 2**22 // resolution**2))


@dataclass
class Bundle:
    """The networks of one run, at one resolution, with their configuration; None for those that its system does not have."""

    config: dict  # config.json
    device: torch.device
    generator: nn.Module | None  # z (B, d) -> images (B, C, r, r), about [-1, 1], not clamped
    inference: nn.Module | None  # images in [-1, 1] -> mu (B, d), logvar (B, d)
    energy: nn.Module | None  # images in [-1, 1] -> (B,), lower is more like the data
    resolution: int  # r, pixels
    latent: int  # d
    pair_energy: nn.Module | None = None  # images and latents (B, d) -> (B,), of a system with an energy of pairs
    variational: nn.Module | None = None  # images in [-1, 1] -> (B,), f-EBM's H
    aggregate: dict[str, Tensor] | None = None  # mean (d,) and factor (d, d) of the codes of training pictures

    @property
    def prior(self) -> str:
        """Where latents of seeds come from unless one says: aggregate where the bundle holds the codes' moments, else standard."""
        return "standard" if self.aggregate is None or self.config.get("chains") else "aggregate"

    def latents(self, seeds: Iterable[int], prior: str = "") -> Tensor:
        """Latents (N, d) of N seeds on the bundle's device, of a `prior` as `place` has it, drawn on the CPU from one stream a seed."""
        return self.place(latents(seeds, self.latent).to(self.device), prior)

    def place(self, w: Tensor, prior: str = "") -> Tensor:
        """What w (B, d) ~ N(0, I) is as a latent: itself (standard), or mean + factor w (aggregate); "" is the bundle's own `prior`.

        Raises ValueError for another name, or a bundle that holds no such moments.
        """
        prior = prior or self.prior
        if prior == "standard":
            return w
        if prior != "aggregate":
            raise ValueError(f"prior={prior}: wanted standard or aggregate")
        if self.aggregate is None:
            raise ValueError("prior=aggregate: the bundle holds no moments of codes; wanted standard, or hires export moments=4000")
        return self.aggregate["mean"] + w @ self.aggregate["factor"].T

    @torch.no_grad()
    def sample(self, seeds: Iterable[int], steps: int | None = None, prior: str = "") -> Tensor:
        """Pictures (N, C, r, r) of N seeds, float in [-1, 1]; seed n is the same picture in any list, up to rounding.

        Latents are of `prior`: standard, aggregate, or "" for the bundle's own. Of a bundle with `chains` pictures are where Langevin ends,
        after `steps` where given: from the generator's pictures, or from uniform noise where there is no generator. Rounding
        grows with the steps there. Of a bundle with `classes` seed n is one of class n modulo their number.
        """
        seeds, at_once = list(seeds), pictures_at_once(self.resolution)
        return torch.cat([self._draw(seeds[i : i + at_once], steps, prior) for i in range(0, max(1, len(seeds)), at_once)])

    def decode(self, z: Tensor) -> Tensor:
        """The generator's pictures (N, C, r, r), float in [-1, 1], of latents (N, d); raises ValueError where there is no generator."""
        return self._by_parts("generator", lambda part: self.generator(part).clamp(-1, 1), z)

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and logvar (N, d) each, q(z | x) = N(mu, diag exp(logvar)), of pictures (N, C, r, r) in [-1, 1].

        Raises ValueError where there is no inference model, or for pictures of another shape, type or range.
        """
        both = self._by_parts("inference", lambda part: torch.stack(self.inference(part), 1), _pictures(x))
        return both[:, 0], both[:, 1]

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the generator makes of the mean codes of pictures x (N, C, r, r) in [-1, 1]: pictures like them.

        Raises ValueError where there is no inference model or no generator, or for pictures of another shape, type or range.
        """
        self._require("generator")
        return self.decode(self.infer(x)[0])

    def score(self, x: Tensor) -> Tensor:
        """Energies (N,) of pictures (N, C, r, r) in [-1, 1]: lower is more like the data; they have no unit and no zero.

        Raises ValueError where there is no energy, or for pictures of another shape, type or range.
        """
        return self._by_parts("energy", self.energy, _pictures(x))

    def walk(self, keys: Iterable[int] | Tensor, steps: int = 8, loop: bool = False, prior: str = "") -> Tensor:
        """Pictures (F, C, r, r) in [-1, 1] on the way from key to key, `steps` from one to the next, along great circles (slerp).

        `keys` are seeds, whose draws of N(0, I) the circles join before they are placed as `prior` says, or K latents (K, d) such as mu of
        `infer`. F = (K - 1) steps + 1, the last picture that of the last key; with `loop` F = K steps and the picture after the last would
        be the first again. Raises ValueError for fewer than two keys, no step, or where there is no generator.
        """
        self._require("generator")
        z = keys.float().cpu() if isinstance(keys, Tensor) else latents(keys, self.latent)  # on the CPU: the same path on any device
        _require_latents(z, self.latent)
        if len(z) < 2 or steps < 1:
            raise ValueError(f"a walk over {len(z)} keys in {steps} steps from one to the next: wanted 2 keys and 1 step at least")
        frame = torch.arange((len(z) if loop else len(z) - 1) * steps + (not loop))
        left = (frame // steps).clamp_max(len(z) - 1 - (not loop))
        t = ((frame - left * steps).double() / steps).to(z)
        way = slerp(z[left], z[(left + 1) % len(z)], t[:, None])
        return self.decode(way if isinstance(keys, Tensor) else self.place(way.to(self.device), prior))

    def _require(self, name: str) -> None:
        if getattr(self, name) is None:
            system = self.config.get("info", {}).get("system", "")
            what = {"generator": "generator", "inference": "inference model", "energy": "energy"}[name]
            raise ValueError(f"this bundle has no {what}" + (f" (objective={system} trains none)" if system else ""))

    @torch.no_grad()
    def _by_parts(self, name: str, network: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        self._require(name)
        parts = batch.split(pictures_at_once(self.resolution))
        return torch.cat([network(part.to(self.device, torch.float32)) for part in parts])

    def _draw(self, seeds: list[int], steps: int | None, prior: str) -> Tensor:
        chains = self.config.get("chains")
        if not chains:
            return self.generator(self.latents(seeds, prior)).clamp(-1, 1)
        dice = [die(seed) for seed in seeds]
        if self.generator:
            start = self.generator(torch.stack([torch.randn(self.latent, generator=die) for die in dice]).to(self.device))
        else:
            shape = (self.config["image_channels"], self.resolution, self.resolution)
            start = torch.stack([torch.rand(shape, generator=die) for die in dice]).to(self.device) * 2 - 1
        classes = self.config.get("classes")
        labels = [torch.tensor(seeds, device=self.device) % classes] if classes else []
        return langevin(lambda x: self.energy(x, *labels), start, dice, **(chains if steps is None else chains | {"steps": steps}))

    def log_ratio(self, x: Tensor) -> Tensor:
        """f-EBM's estimate of log p(x)/q(x), data over model, (B,), of pictures in [-1, 1]: H + U."""
        return self.variational(x) + self.energy(x)


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    version = config.get("format") if isinstance(config, dict) else None
    if version != FORMAT:
        raise ValueError(f"{path}: bundle format {version!r}, this loader reads {FORMAT}; use the hires_bundle.py that lies beside it")
    for key, kind in _KEYS.items():
        if not isinstance(config.get(key), kind) or isinstance(config.get(key), bool):  # True is an int to Python
            raise ValueError(f"{path}: {key}={config.get(key)!r}, wanted {kind.__name__}")
    if config["kind"] not in _NETWORKS:
        raise ValueError(f"{path}: kind={config['kind']!r}, wanted one of {', '.join(_NETWORKS)}")
    if config["energy_form"] not in ("identity", "softplus", "experts"):
        raise ValueError(f"{path}: energy_form={config['energy_form']!r}, wanted identity, softplus or experts")
    has = {f"has_{name}": bool for name in _HAS}
    groups = {"chains": dict, "aggregate": dict, "sha256": dict}
    for key, kind in {"experts": int, "classes": int, "energy_scale": float, "squashes": bool, "normed": list, **groups, **has}.items():
        if key in config and not isinstance(config[key], kind):
            raise ValueError(f"{path}: {key}={config[key]!r}, wanted {kind.__name__}")
    for key, most in _MOST.items():  # what a damaged number would build without end
        if key in config and not 1 <= config[key] <= most:
            raise ValueError(f"{path}: {key}={config[key]}, wanted 1 to {most}")
    if not 1 <= config.get("experts", 1) <= _MOST["latent"]:
        raise ValueError(f"{path}: experts={config['experts']}, wanted 1 to {_MOST['latent']}")
    if config["energy_form"] == "experts" and ("experts" not in config or config["kind"] not in ("growing", "p3")):
        raise ValueError(f"{path}: energy_form=experts with kind={config['kind']}, wanted kind=growing or p3, and the number of experts")
    if config.get("energy_norm", "layer") != "layer":
        raise ValueError(f"{path}: energy_norm={config['energy_norm']!r}, wanted layer")
    if "classes" in config and config["kind"] != "p4":
        raise ValueError(f"{path}: classes={config['classes']} with kind={config['kind']}, wanted kind=p4")
    chains = config.get("chains")
    if (chains is None and not config.get("has_generator", True)) or (chains is not None and not config.get("has_energy", True)):
        raise ValueError(f"{path}: wanted a generator, or an energy and chains, to draw with")
    if chains is not None and {"noise_first": bool} | {key: type(value) for key, value in chains.items()} != _CHAINS:
        raise ValueError(f"{path}: chains={chains}, wanted {', '.join(f'{key} ({kind.__name__})' for key, kind in _CHAINS.items())}")
    if config.get("energy_takes", "x") not in (("x", "xz") if config["kind"] in ("growing", "p2") else ("x",)):
        raise ValueError(f"{path}: energy_takes={config['energy_takes']!r} with kind={config['kind']}, wanted x, or xz with growing or p2")
    if config["kind"] != "growing":
        _require_widths(config, path)
        return config
    most = config["resolution"]
    if most < 4 or most & (most - 1):
        raise ValueError(f"{path}: resolution={most}, wanted a power of two, at least 4")
    for r in _resolutions(most):
        width = config["widths"].get(str(r))
        if not isinstance(width, int) or not 1 <= width <= _MOST["latent"]:
            raise ValueError(f"{path}: widths has no number for {r}x{r}")
    return config


def _require_widths(config: dict, path: Path) -> None:
    if config["resolution"] not in _SIDES:
        raise ValueError(f"{path}: resolution={config['resolution']} with kind={config['kind']}, wanted {', '.join(map(str, _SIDES))}")
    if lacking := {"energy", "latent"} - config["widths"].keys() if config.get("energy_takes") == "xz" else set():
        raise ValueError(f"{path}: widths has none for {' and '.join(sorted(lacking))}, wanted those of an energy of pairs")
    for name, widths in config["widths"].items():
        numbers = isinstance(widths, list) and all(type(width) is int and 1 <= width <= _MOST["latent"] for width in widths)
        if not numbers or not 2 <= len(widths) <= _MOST["convs"]:
            raise ValueError(f"{path}: widths of {name}={widths!r}, wanted numbers of channels")
    for name in [name for name, has in _HAS.items() if config["kind"] in ("p3", "p4") and config.get(f"has_{name}", has)]:
        if name not in _NETWORKS[config["kind"]] or len(config["widths"].get(name, [])) != 2:
            raise ValueError(f"{path}: has_{name} with kind={config['kind']}, wanted such a network with two widths")


def _read_tensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    try:
        return load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from None


def _read_network(network: type[nn.Module], config: dict, path: Path, device: torch.device) -> nn.Module:
    tensors = _read_tensors(path, device)
    with torch.device("meta"):  # shapes alone: the weights come from the file
        module = network(config)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(expected.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        if found != expected.get(name, "nothing"):
            raise ValueError(f"{path}: {name} is {found}, config.json says {expected.get(name, 'nothing')}")
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)


def _read_moments(path: Path, latent: int, device: torch.device) -> dict[str, Tensor]:
    found = _read_tensors(path, device)
    shapes, wanted = {name: tuple(tensor.shape) for name, tensor in found.items()}, {"mean": (latent,), "factor": (latent, latent)}
    if shapes != wanted:
        raise ValueError(f"{path}: holds {shapes}, config.json says {wanted}")
    return found


def _require_hash(path: Path, sha256: str | None) -> None:
    """Raise ValueError where a file is not the one that was exported; bundles of old may have no hash of it."""
    with path.open("rb") as file:
        if sha256 and hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError(f"{path}: not the file that was exported, its sha256 is another; copy the bundle again, or export it anew")


def load(folder: str | Path, device: str | torch.device = "cpu") -> Bundle:
    """The bundle in `folder`, on `device`.

    Raises FileNotFoundError naming a file that is missing, ValueError (one line) for another format version or a file that was changed.
    No pickle is ever read.
    """
    folder, device = Path(folder), torch.device(device)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'}: missing; {folder} is not a whole bundle")
    config = _read_config(folder / "config.json")
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    said = re.search(r"^([0-9a-f]{64})  config\.json$", text, re.M)
    _require_hash(folder / "config.json", said[1] if said else None)
    paths = {name: folder / f"{name}.safetensors" for name, has in _HAS.items() if config.get(f"has_{name}", has)}
    moments = [folder / "aggregate.safetensors"] if "aggregate" in config else []
    for path in (*paths.values(), *moments):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; {folder} is not a whole bundle")
        _require_hash(path, config.get("sha256", {}).get(path.name))
    kinds, pairs = _NETWORKS[config["kind"]], config.get("energy_takes") == "xz"
    if pairs:
        kinds = kinds | {"energy": _GrowingPairEnergy if config["kind"] == "growing" else _FixedPairEnergy}
    networks = {name: _read_network(kinds[name], config, path, device) for name, path in paths.items()}
    if pairs:
        networks["pair_energy"] = networks["energy"]
        networks["energy"] = _EnergyOfImages(networks["pair_energy"], networks["inference"]).eval()
    networks = {"generator": None, "inference": None, "energy": None} | networks
    if moments:
        networks["aggregate"] = _read_moments(moments[0], config["latent"], device)
    return Bundle(config, device, **networks, resolution=config["resolution"], latent=config["latent"])
