"""`hires evaluate`."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
import torch

from hires.config import EvaluateConfig
from hires.errors import HiresError
from hires.evaluation import labelled
from hires.evaluation.diversity import diversity
from hires.evaluation.reconstruction import reconstruction_mse
from hires.evaluation.swd import band_statistics, real_floor, sliced_wasserstein
from hires.networks.growing import fade_images
from hires.networks.transition import markov_chain
from hires.sampling import from_run
from hires.sampling.hires_bundle import latents
from hires.sampling.seeds import open_bundle
from pipelines import Loader, Shards

LABELLED = ("probe", "augmentation")  # of data with labels (docs/vgan.md)
MEASURES = ("swd", "reconstruction", "diversity", *LABELLED)
BATCH = 50


def run(config: EvaluateConfig) -> int:
    """Measure samples and reconstructions against held-out pictures; prints a table and writes JSON, to `out` and into a run's folder."""
    wanted = [name.strip() for name in config.measure.split(",")]
    unknown = [name for name in wanted if name not in MEASURES]
    if unknown:
        raise HiresError(f"measure={unknown[0]}: wanted {', '.join(MEASURES)}")
    if bool(config.run) == bool(config.sampler):
        raise HiresError("give either run=… or sampler=…")
    generate, encode, latent, resolution, alpha, name, images = _open(config)
    if "reconstruction" in wanted and encode is None:
        raise HiresError(f"measure=reconstruction: {name} has no inference model; say measure=swd,diversity")
    shards = Shards.open(config.data)
    shards.require_level(resolution)
    if shards.count("holdout") < 2:
        raise HiresError(f"data={config.data}: no held-out pictures; prepare it with split.holdout=… or split.prefix=…")
    count = min(config.images, shards.count("holdout"))
    real = _pictures(shards, resolution, "holdout", count, alpha)
    result: dict = {"of": name, "data": config.data, "resolution": resolution, "images": count}
    if {"swd", "diversity"} & set(wanted):
        with torch.no_grad():
            z = latents(list(range(count)), latent)
            raw = torch.cat([generate(part) for part in z.split(BATCH)])
        samples = raw.clamp(-1, 1)
    if "swd" in wanted:
        train = _pictures(shards, resolution, "train", count, alpha)
        bands = band_statistics(raw, real)  # unclamped: values out of range are one of the signs
        result["swd"] = sliced_wasserstein(samples, real, torch.Generator().manual_seed(0))
        result["swd_floor"] = real_floor(real, train, torch.Generator().manual_seed(0))
        result["band_ratio_q10_q50_q90"] = bands.ratios
        result["band_sd_log"] = bands.sd_log_samples
        result["band_sd_log_real"] = bands.sd_log_real
        result["over"], result["burnt"] = bands.over, bands.burnt
    if "diversity" in wanted:
        result["diversity"] = diversity(samples, real)
    if "reconstruction" in wanted:
        result["reconstruction_mse"] = reconstruction_mse(generate, encode, real, BATCH)
    if set(LABELLED) & set(wanted):
        result |= _labelled(config, wanted, shards)
    table = Table("measure", "value", title=f"{name} at {resolution}x{resolution}, {count} held-out pictures of {config.data}")
    for key, value in list(result.items())[4:]:
        table.add_row(key, _shown(value))
    Console().print(table)
    record = json.dumps(result, indent=1)
    if config.out:
        Path(config.out).write_text(record)
    if config.run:  # where `hires export` finds it for the model card
        (Path(config.run) / f"evaluation-{images:012d}.json").write_text(record)
    return 0


def _open(config: EvaluateConfig):
    """(generate, encode, latent, resolution, alpha, name, images seen) of a run's newest checkpoint or of a bundle."""
    if config.sampler:
        bundle = open_bundle(config.sampler)
        return bundle.generator, lambda x: bundle.inference(x)[0], bundle.latent, bundle.resolution, 1.0, config.sampler, 0
    loaded = from_run.load(config.run)
    G, I, alpha = loaded.generator, loaded.networks.get("inference"), loaded.alpha  # noqa: E741 - the papers' name
    name = f"{config.run} ({loaded.images:,} images)"
    encode = (lambda x: I(x, alpha)[0]) if I else None
    return lambda z: G(z, alpha), encode, loaded.config.network.latent, loaded.resolution, alpha, name, loaded.images


def _labelled(config: EvaluateConfig, wanted: list[str], shards: Shards) -> dict:
    """The measures that need labels, of a run's energy and of its transition operator."""
    if not config.run:
        raise HiresError("measure=probe and augmentation look into a run's networks: give run=…, not sampler=…")
    loaded = from_run.load(config.run)
    networks, alpha, result = loaded.networks, loaded.alpha, {}
    common = shards, loaded.resolution, alpha, config.labels, config.images
    if "probe" in wanted:
        result |= labelled.probe(lambda x: networks["energy"].features(x, alpha), *common)
    if "augmentation" in wanted:
        name = loaded.config.objective.name
        if name != "vcd":
            raise HiresError(f"measure=augmentation: {config.run} is of objective={name}, wanted vcd: that has transitions")
        G, I = networks["generator"], networks["inference"]  # noqa: E741 - the papers' name
        result |= labelled.augmentation(lambda x, noise: markov_chain(I, G, x, 1, noise, alpha)[:, 1], *common, config.epochs, config.width)
    return result


def _pictures(shards: Shards, resolution: int, split: str, count: int, alpha: float) -> torch.Tensor:
    """`count` pictures of a split drawn by a fixed permutation, in [-1, 1]."""
    pick = torch.randperm(shards.count(split), generator=torch.Generator().manual_seed(0))[:count]
    return fade_images(Loader(shards, resolution, split, 0.0).read(pick.numpy()).float() / 127.5 - 1, alpha)


def _shown(value) -> str:
    if isinstance(value, list):
        return "  ".join(_shown(v) for v in value) if not isinstance(value[0], list) else "   ".join(_shown(v) for v in value)
    return f"{value:.4g}"
