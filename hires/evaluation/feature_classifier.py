"""A small classifier trained on labelled shards, for its features: a stand-in for Inception on data of one's own kind."""

from contextlib import suppress
import hashlib
import json
import os
from pathlib import Path
import re

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
import torch
from torch import Tensor, nn
import torch.distributed as dist

from hires.errors import HiresError
from hires.evaluation.classifier import WIDTH, Classifier, Labelled, error, train
from hires.evaluation.feature_networks import FeatureNetwork, hash_of
from hires.evaluation.material import Material
from hires.ground.distributed import from_first
from hires.ground.files import whole_file
from hires.ground.labels import labels_of
from hires.training.settings import run_config, settings_of
from pipelines import Loader, Shards

TESTED = 2000  # held-out pictures at most that its error is from


def of_classifier(place: str, labels: int, epochs: int, material: Material, cache: Path) -> FeatureNetwork:
    """The classifier of the shards at `place` (or those of the run there) at the material's level: 64 features, then logits.

    Trained on the first `labels` training pictures (0: all) for `epochs`, by the first rank, and kept in `cache`; the same data and
    settings find it there. Raises HiresError or DataError where the data have no labels, one class, or do not fit the subject.
    """
    root = run_config(settings_of(Path(place))).data.root if (Path(place) / "config.yaml").exists() else place
    shards, level = Shards.open(root), material.subject
    shards.require_level(level.resolution)
    if shards.channels != level.channels:
        raise HiresError(f"metrics.features=classifier:{place}: {shards.channels} channels, {level.name} has {level.channels}")
    taken = labels_of(shards.keys("train"), f"metrics.features=classifier:{place}")[: labels or None]
    if len(taken.unique()) < 2:
        raise HiresError(f"metrics.features=classifier:{place}: {len(taken)} pictures of one class; wanted two classes")
    classes = int(taken.max()) + 1
    key = [shards.identity, level.resolution, len(taken), epochs, WIDTH]
    path = cache / f"classifier-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.safetensors"
    model = Classifier(level.channels, classes, WIDTH)
    if material.first and not _loaded(model, path):
        model = train(_read(shards, level.resolution, "train", taken), classes, epochs, level.device)
        with suppress(HiresError), whole_file(path) as part:  # a cache that cannot be written costs the next evaluation time, no more
            save_file(model.state_dict(), part)
    model = model.to(level.device).eval()
    if dist.is_initialized():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
    told = f"a classifier of {len(taken):,} pictures of {os.path.basename(os.path.normpath(root))}"
    if shards.count("holdout"):
        wrong = _error(model, shards, level.resolution) if material.first else 0.0
        told += f", wrong on {100 * (from_first(wrong) if dist.is_initialized() else wrong):.1f} % of held-out ones"

    below, last = nn.Sequential(*list(model)[:-1]), model[-1]

    def of(x: Tensor) -> Tensor:
        features = below(x.to(level.device))
        return torch.cat([features, last(features)], 1)

    name = re.sub(r"\W+", "_", os.path.basename(os.path.normpath(root)))
    weights = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    return FeatureNetwork(f"classifier_{name}", hash_of(save(weights)), of, classes, told)


def _loaded(model: Classifier, path: Path) -> bool:
    """Whether the classifier's weights could be taken from the cache."""
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        return False
    except (SafetensorError, OSError, RuntimeError):
        print(f"{path}: cannot be read; trained again")
        return False
    return True


def _read(shards: Shards, resolution: int, split: str, labels: Tensor) -> Labelled:
    loader = Loader(shards, resolution, split, 0.0)
    parts = torch.arange(len(labels)).split(1000)
    return Labelled(torch.cat([loader.read(part.numpy()).contiguous() for part in parts]), labels)


@torch.no_grad()
def _error(model: Classifier, shards: Shards, resolution: int) -> float:
    count = min(TESTED, shards.count("holdout"))
    labels = labels_of(shards.keys("holdout"), str(shards.root))
    pick = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:count]
    images = Loader(shards, resolution, "holdout", 0.0).read(pick.numpy()).float() / 127.5 - 1
    device = next(model.parameters()).device
    return error(model, images.to(device), labels[pick].to(device))
