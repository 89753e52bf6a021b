"""How near samples are to the data in the features of a network: FID, KID, Inception Score, precision and recall, by torch-fidelity; and
whether they repeat training pictures.

The network is Inception where its weights are given. Any other stands in, and its numbers then bear its name: `frechet_random0`, never FID.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
import os
from pathlib import Path
from typing import Any

from torch import Tensor
import torch.distributed as dist

from hires.errors import HiresError
from hires.evaluation.feature_classifier import of_classifier
from hires.evaluation.feature_networks import (
    FeatureNetwork,
    of_efficientnet,
    of_onnx,
    of_random,
    of_torchscript,
    require_efficientnet,
    require_file,
)
from hires.evaluation.inception import NO_WEIGHTS, fetched_weights, given_weights, of_inception
from hires.evaluation.material import Material
from hires.evaluation.reference import reference, require_finite, user_cache
from hires.ground.distributed import from_first
from hires.ground.ranges import setting

NEEDS = ("draw",)
FEWEST = 10  # pictures of a set
SHOWN = 16  # samples on the sheet
KINDS = "inception, efficientnet, random:SEED, classifier:DATA, FILE.pt (TorchScript) or FILE.onnx"


@dataclass
class Config:
    """`measure=fidelity`: settings metrics.…"""

    features: str = "inception"  # or efficientnet, random:SEED, classifier:DATA (labelled shards, or a run on them), FILE.pt, FILE.onnx
    weights: str = ""  # of Inception, as torch-fidelity has them: .pth or .safetensors; empty: the file that HIRES_INCEPTION names
    download: bool = False  # where neither is given, fetch them (95 MB)
    real: int = 50000  # real pictures at most
    split: str = setting("train", among=("train", "holdout"))  # where they are from: train | holdout; the floor is from the other
    labels: int = setting(0, at_least=0)  # of classifier:DATA: labelled training pictures, the first ones; 0 = all of them
    epochs: int = setting(10, at_least=1)  # of classifier:DATA
    cache: str = ""  # folder for features of real pictures, classifiers and fetched weights; empty: in the user's cache folder


def check(settings) -> None:
    """Raises HiresError for settings that cannot work: a misspelt one, or a missing file or package."""
    if not find_spec("torch_fidelity"):
        raise HiresError("measure=fidelity needs torch-fidelity, not installed: pip install 'hires[fidelity]'")
    for name, number in (("images", settings.images), ("metrics.real", settings.metrics.real)):
        if number < FEWEST:
            raise HiresError(f"{name}={number}: measure=fidelity wants at least {FEWEST}")
    check_network(settings.metrics)


def check_network(config: Config) -> None:
    """Raises HiresError where `metrics.features` names no network, or its file or package is missing."""
    kind, _, rest = map(os.path.expanduser, config.features.partition(":"))
    if config.features == "inception":
        given_weights(config.weights)
    elif config.features == "efficientnet":
        require_efficientnet()
    elif kind == "classifier":
        if "://" not in rest and not Path(rest).is_dir():
            raise HiresError(f"metrics.features={config.features}: no such folder {rest}; wanted prepared data with labels")
    elif kind == "random":
        if not rest.isdecimal() or int(rest) >= 2**32:  # torch's generator tells no others apart
            raise HiresError(f"metrics.features={config.features}: wanted random:SEED, such as random:0, below 2^32")
    elif Path(config.features).suffix in (".pt", ".onnx"):
        require_file(config.features, "metrics.features")
    else:
        raise HiresError(f"metrics.features={config.features}: wanted {KINDS}")


def measure(material: Material, settings) -> dict:
    """Samples against real pictures, the same of real pictures of the other split (the floor), and on how many of each."""
    check(settings)
    config, cache, shards = settings.metrics, user_cache(settings.metrics.cache), material.shards
    if shards.count(config.split) < FEWEST:
        raise HiresError(f"data={shards.root}: {shards.count(config.split)} pictures of {config.split}; wanted at least {FEWEST}")
    network = opened(config, material, cache)
    if network is None:
        return {"fidelity": NO_WEIGHTS}
    samples = require_finite(material.of_samples(network.of), network, "samples")
    real, remark = reference(material, network, config.split, config.real, cache)
    other = "holdout" if config.split == "train" else "train"
    floor, floor_remark = reference(material, network, other, len(samples), cache)
    found: dict[str, Any] = {}
    draw = None
    if material.first:
        found |= scores(samples, real, network)
        if len(floor) >= FEWEST:
            found |= {f"{name}_floor": value for name, value in scores(floor, real, network).items() if not name.endswith("_sd")}
            if config.split == "train":  # the other way round there are only as many training pictures as samples
                found[f"copying_{network.name}"], draw = _copies(material, network, samples, floor, real)
        found |= _told(len(samples), len(real), len(floor), samples.shape[1] - network.classes, network, config.split, other)
        remarks = list(dict.fromkeys(filter(None, (remark, floor_remark))))
        found |= {f"cache_{network.name}": "; ".join(remarks)} if remarks else {}
    found = from_first(found) if dist.is_initialized() else found
    return found | (material.picture("fidelity_sheet", draw) if f"copying_{network.name}" in found else {})


def lower(found: dict) -> float | None:
    """The Fréchet distance; None where there were no weights."""
    return None if "fidelity" in found else next(iter(found.values()))


def opened(config: Config, material: Material, cache: Path) -> FeatureNetwork | None:
    """The network that `metrics.features` names, on the subject's device; None for Inception without weights; raises HiresError."""
    level = material.subject
    kind, _, rest = map(os.path.expanduser, config.features.partition(":"))
    if config.features == "inception":
        path = given_weights(config.weights)
        if path is None and config.download:
            path = _fetched(material, cache)
        return of_inception(path, level.device) if path else None
    if config.features == "efficientnet":
        return of_efficientnet(level.device)
    if kind == "classifier":
        return of_classifier(rest, config.labels, config.epochs, material, cache)
    if kind == "random":
        return of_random(int(rest), level.channels, level.resolution, level.device)
    if config.features.endswith(".onnx"):
        return of_onnx(config.features, level.channels, level.resolution, level.device)
    return of_torchscript(config.features, level.device)


def scores(samples: Tensor, real: Tensor, network: FeatureNetwork) -> dict[str, float]:
    """Every score of features (N, D + classes) of samples against those (M, D + classes) of real pictures, by the network's name."""
    from hires.evaluation.scores import frechet, kernel_distance, precision_recall, prediction_score  # brings torchvision

    features = samples.shape[1] - network.classes
    a, b = samples[:, :features], real[:, :features]
    names = {"frechet": "fid", "kid": "kid", "score": "inception_score"} if network.name == "inception" else {}

    def named(word: str) -> str:
        return names.get(word, f"{word}_{network.name}")

    kid, kid_sd = kernel_distance(a, b)
    found = {named("frechet"): frechet(a, b), named("kid"): kid, f"{named('kid')}_sd": kid_sd}
    found |= dict(zip((named("precision"), named("recall")), precision_recall(a, b), strict=True))
    if network.classes:
        score, score_sd = prediction_score(samples[:, features:])
        found |= {named("score"): score, f"{named('score')}_sd": score_sd}
    return found


def _copies(material: Material, network: FeatureNetwork, samples: Tensor, held_out: Tensor, training: Tensor) -> tuple[float, Callable]:
    """The chance that a sample is nearer to its nearest training picture than a held-out one to its own, by features (N, D + classes) of
    each: the test for data-copying of Meehan et al. 2020. And what writes a sheet of the nearest samples beside those pictures.
    """
    from hires.evaluation.outliers import rates
    from hires.evaluation.scores import nearest
    from hires.media.sheets import save_sheet

    features = samples.shape[1] - network.classes
    apart, which = nearest(samples[:, :features], training[:, :features])
    of_held_out, _ = nearest(held_out[:, :features], training[:, :features])
    share, _, _ = rates(apart.numpy(), of_held_out.numpy())

    def draw(path: Path) -> None:
        seeds = apart.argsort()[:SHOWN]
        captions = [f"seed {seed}: {apart[seed]:.3g}" for seed in seeds.tolist()]
        title = f"{material.subject.name}: samples nearest to a training picture; of held-out ones the median is {of_held_out.median():.3g}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_sheet(path, material.pair(seeds, "train", which[seeds]), captions, ["sample", "training picture"], title, columns=4)

    return share, draw


def _fetched(material: Material, cache: Path) -> Path:
    """Weights fetched by the first rank; where it cannot, every rank says so."""
    problem = ""
    if material.first:
        try:
            fetched_weights(cache)
        except HiresError as error:
            problem = str(error)
    problem = from_first(problem) if dist.is_initialized() else problem
    if problem:
        raise HiresError(problem)
    return fetched_weights(cache)


def _told(samples: int, real: int, floor: int, features: int, network: FeatureNetwork, split: str, other: str) -> dict[str, str]:
    found = {
        f"features_{network.name}": f"{features:,} of {network.told}; {network.hash}",
        f"pictures_{network.name}": f"{samples:,} samples against {real:,} of {split}; floor: {floor:,} of {other}",
    }
    if min(samples, real) <= features:
        few = f"{min(samples, real):,} pictures are too few for {features:,} features"
        found[f"bias_{network.name}"] = f"{few}: the Fréchet distance is too high, and comparable at the same numbers alone"
    return found
