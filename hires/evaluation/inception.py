"""The Inception network of FID, Inception Score and KID: torch-fidelity's, with weights that the user gives or lets it fetch."""

import io
import os
from pathlib import Path
import pickle
import warnings

from safetensors import SafetensorError
from safetensors.torch import load_file
import torch
from torch import Tensor

from hires.errors import HiresError
from hires.evaluation.feature_networks import FeatureNetwork, hash_of, require_file
from hires.ground.files import whole_file

VARIABLE = "HIRES_INCEPTION"
NO_WEIGHTS = f"no weights: say metrics.weights=FILE or set {VARIABLE}, metrics.download=true to fetch them, or metrics.features=random:0"
LAYERS = ["2048", "logits_unbiased"]  # of FID and KID; of the Inception Score
CLASSES = 1008


def given_weights(weights: str) -> Path | None:
    """The file of `metrics.weights`, or else of HIRES_INCEPTION; None where neither is given; raises HiresError where it is missing."""
    if weights:
        return require_file(weights, "metrics.weights")
    named = os.environ.get(VARIABLE, "")
    return require_file(named, VARIABLE) if named else None


def fetched_weights(folder: Path) -> Path:
    """torch-fidelity's weights (95 MB), fetched into `folder` where they are not there yet; raises HiresError where they cannot be had."""
    address = _library().URL_INCEPTION_V3
    path = folder / Path(address).name
    if not path.exists():
        try:
            with whole_file(path) as part:
                torch.hub.download_url_to_file(address, str(part), progress=False)
        except HiresError as error:
            raise HiresError(f"metrics.download=true: {address}: {error}") from error
    return path


def of_inception(path: Path, device: torch.device) -> FeatureNetwork:
    """The network with the weights of a file (.pth, read without pickle's code, or .safetensors); one channel is shown as three.

    Raises HiresError for weights that cannot be read or are another network's.
    """
    state = _read(path)
    safe = io.BytesIO()  # torch-fidelity unpickles what it is given: it is given what was read as tensors and nothing else
    torch.save(state, safe)
    safe.seek(0)
    try:
        network = _library().FeatureExtractorInceptionV3("inception-v3-compat", LAYERS, feature_extractor_weights_path=safe).to(device)
    except RuntimeError as error:
        raise HiresError(f"{path}: weights of another network; wanted those of torch-fidelity's inception-v3-compat") from error

    def of(x: Tensor) -> Tensor:
        pixels = (x.to(device) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        return torch.cat(network(pixels.expand(-1, 3, -1, -1)), 1).float()

    return FeatureNetwork("inception", hash_of(path.read_bytes()), of, CLASSES, f"Inception, weights {path.name}")


def _library():
    from pipelines.torchvision_cpu import torchvision  # noqa: F401, I001 - first: torch-fidelity imports it
    from torch_fidelity import feature_extractor_inceptionv3

    return feature_extractor_inceptionv3


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive it warns, and then refuses it
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, LookupError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise HiresError(f"{path}: cannot be read as weights (.pth that holds tensors alone, or .safetensors)") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise HiresError(f"{path}: holds no weights by name")
    return state
