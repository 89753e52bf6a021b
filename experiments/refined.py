"""Does refinement by the energy bring samples nearer to the data? `hires sample`'s ways, measured by two distances, precision and recall.

    python experiments/refined.py sampler=bundle data=data/faces images=1000
    python experiments/refined.py sampler=bundle data=data/faces rows="plain;langevin.space=latents langevin.steps=20"

Each row draws the same seeds; the floor is training against held-out pictures. The Fréchet distance is in the features of `hires evaluate
metrics.features=efficientnet`.
"""

import sys

import torch

from hires import config as configuration
from hires.evaluation.diversity import diversity
from hires.evaluation.fidelity import Config, opened
from hires.evaluation.material import Material, as_pictures
from hires.evaluation.reference import reference, user_cache
from hires.evaluation.scores import frechet, precision_recall
from hires.evaluation.subject import of_bundle
from hires.evaluation.swd import real_floor, sliced_wasserstein
from hires.sampling.drawing import draw
from hires.sampling.seeds import open_bundle
from pipelines import Shards

ROWS = (
    "plain",
    "langevin.space=pictures langevin.steps=20",
    "langevin.space=latents langevin.steps=20",
)


@torch.no_grad()
def main(*settings: str) -> None:
    """Print a row for each way of drawing."""
    given = dict(setting.split("=", 1) for setting in settings)
    bundle = open_bundle(given["sampler"], "cpu", "")
    material = Material(of_bundle(bundle, given["sampler"]), Shards.open(given["data"]), int(given.get("images", 1000)))
    real = material.held_out()
    features = opened(Config(features="efficientnet"), material, user_cache())
    of_real, of_training = (reference(material, features, split, len(real), user_cache())[0] for split in ("holdout", "train"))
    energy = torch.cat([bundle.energy(part) for part in real.split(100)]).mean()
    floor = real_floor(real, material.train(), torch.Generator().manual_seed(0))
    sides = " / ".join(str(bundle.resolution >> i) for i in range(len(floor)))
    print(f"| samples | FD | precision, recall | swd ×1000, {sides} px | diversity | energy | moved, RMS |")
    print("| --- " * 7 + "|")
    plain = None
    for row in given["rows"].split(";") if "rows" in given else ROWS:
        overrides = row.split() if row != "plain" else []
        config = configuration.load("sample", [f"sampler={given['sampler']}", "out=x.png", *overrides])
        drawn = list(draw(bundle, list(range(len(real))), config.truncation, config.langevin))
        x = torch.cat([part.pictures for part in drawn])
        plain = x if plain is None else plain
        of_samples = torch.cat([features.of(part) for part in as_pictures(x).split(material.at_once)])
        precision, recall = precision_recall(of_samples, of_real)
        values = [f"{frechet(of_samples, of_real):.1f}", f"{precision:.2f}, {recall:.3f}"]
        values += [_numbers(sliced_wasserstein(x, real, torch.Generator().manual_seed(0))), f"{diversity(x, real):.2f}"]
        values += [f"{torch.cat([part.energies for part in drawn]).mean():+.2f}", f"{(x - plain).square().mean().sqrt():.3f}"]
        print(f"| {row} | " + " | ".join(values) + " |", flush=True)
    print(f"| training against held-out pictures | {frechet(of_training, of_real):.1f} | | {_numbers(floor)} | | {energy:+.2f} | |")


def _numbers(values: list[float]) -> str:
    return " / ".join(f"{value:.0f}" for value in values)


if __name__ == "__main__":
    main(*sys.argv[1:])
