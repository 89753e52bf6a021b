"""A run's networks with their moving averages, out of a checkpoint of any world size and ZeRO stage, in one process."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from hires.checkpoints import reading
from hires.checkpoints.retention import lowest
from hires.errors import HiresError
from hires.ground.machine import use_threads
from hires.networks import batch_norm
from hires.training.game import empty_network
from hires.training.schedule import parse_images
from hires.training.settings import RunConfig, run_config

BEST = "best"  # as `at`


@dataclass
class RunNetworks:
    """The system's networks, eval, fp32, on the CPU, and where they come from."""

    config: RunConfig
    networks: dict[str, nn.Module]
    images: int
    resolution: int
    fading: bool
    alpha: float
    checkpoint: Path
    data: str = ""  # identity of the shards that it was trained on (Shards.identity), empty where it is not known

    @property
    def generator(self) -> nn.Module:
        """The generator; raises HiresError for a system that has none."""
        if "generator" not in self.networks:
            name, there = self.config.objective.name, ", ".join(self.networks)
            raise HiresError(f"{self.checkpoint}: objective={name} has no generator to draw with (networks: {there})")
        return self.networks["generator"]


def load(run: str, at: str = "", resolution: int = 0) -> RunNetworks:
    """The newest checkpoint of a run; with `at` the newest at or before that many images, with `resolution` that is stable at that level;
    with at=best the one that train.keep_best kept.

    Its files are read whole and compared with their hashes. Raises HiresError where there is none, saying what there is, or where it is
    damaged or of another version.
    """
    if at == BEST and resolution:
        raise HiresError(f"at={BEST} resolution={resolution}: choose one; the best is of the highest level measured")
    limit = parse_images(at, "at") if at and at != BEST else None
    there = _checkpoints(run)
    found = [path for path in there if limit is None or int(path.name.removeprefix("images-")) <= limit]
    if not found:
        raise HiresError(f"run={run}: the first checkpoint is {there[0].name}, none at or before at={at}")
    path = _stable_at(found, resolution, run, at) if resolution else found[-1]
    if at == BEST:
        path = _best(found, run)
    if problem := reading.verify(path):
        raise HiresError(f"{path}: damaged checkpoint: {problem}; take one before it with at=…")
    checkpoint = reading.Checkpoint(path)
    manifest = checkpoint.manifest
    try:
        config = run_config(manifest["config"])
    except HiresError as error:
        raise HiresError(f"{path}: made with settings that this version does not know ({error})") from error
    loaded = {}
    for name in config.objective.players():
        network = empty_network(config, name, manifest["resolution"], manifest["fading"])
        checkpoint.load_network(network, name, "ema")
        loaded[name] = network.eval().requires_grad_(False)
        if name == "generator" and batch_norm.layers(network):  # older checkpoints hold the running statistics of training
            batch_norm.measure(network, batch_norm.prior(config.network.latent))
    use_threads(0, manifest["resolution"])
    place = checkpoint.images, manifest["resolution"], manifest["fading"], manifest["alpha"]
    return RunNetworks(config, loaded, *place, path, manifest.get("data", ""))


def list_stable(run: str) -> list[tuple[int, int]]:
    """(images, resolution) of each checkpoint of a run in which no level is fading in, oldest first.

    Those with a damaged manifest are left out. Raises HiresError where the run has no checkpoint.
    """
    return _stable(_checkpoints(run))


def told(stable: list[tuple[int, int]]) -> str:
    """The newest of each level, for a person: '4x4 (48 images), 8x8 (112 images)'; 'none' for an empty list."""
    newest = {resolution: images for images, resolution in stable}
    return ", ".join(f"{r}x{r} ({images:,} images)" for r, images in newest.items()) or "none"


def _checkpoints(run: str) -> list[Path]:
    if not Path(run).is_dir():
        raise HiresError(f"run={run}: no such folder; wanted what hires train run=… wrote")
    found = reading.complete(Path(run) / "checkpoints")
    if not found:
        raise HiresError(f"run={run}: no complete checkpoint in {Path(run) / 'checkpoints'}")
    return found


def _best(paths: list[Path], run: str) -> Path:
    manifests = {}
    for path in paths:
        with suppress(HiresError):  # a damaged one is not the best
            manifests[path] = reading.read_manifest(path)
    measure = manifests[max(manifests)]["config"]["train"].get("keep_best", "") if manifests else ""
    there = [(one["images"], one["resolution"]) for one in manifests.values()]
    images = lowest(there, {one["images"]: one.get("measured", {}) for one in manifests.values()}, measure)
    if images is None:
        chosen = measure or "swd"
        wanted = f"wanted a run with train.keep_best={chosen} monitor.measures={chosen}"
        raise HiresError(f"run={run} at={BEST}: no checkpoint has a measure to choose by; {wanted}")
    return next(path for path in manifests if manifests[path]["images"] == images)


def _stable(paths: list[Path]) -> list[tuple[int, int]]:
    found = []
    for path in paths:
        try:
            manifest = reading.read_manifest(path)
        except HiresError:
            continue  # of no known level
        if not manifest["fading"]:
            found.append((manifest["images"], manifest["resolution"]))
    return found


def _stable_at(paths: list[Path], resolution: int, run: str, at: str) -> Path:
    for path in reversed(paths):
        try:
            manifest = reading.read_manifest(path)
        except HiresError as error:
            raise HiresError(f"{path}: damaged checkpoint: {error}; take one before it with at=…") from error
        if not manifest["fading"] and manifest["resolution"] == resolution:
            return path
    before = f" at or before {at} images" if at else ""
    raise HiresError(f"run={run}: no checkpoint stable at {resolution}x{resolution}{before}; stable ones{before}: {told(_stable(paths))}")
