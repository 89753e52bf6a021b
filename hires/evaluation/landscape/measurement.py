"""`hires evaluate measure=landscape`."""

from collections.abc import Callable
from contextlib import contextmanager
import hashlib
import json
import math
from pathlib import Path

import numpy as np
from safetensors.torch import save
import torch
from torch import Tensor

from hires.bundle.hires_bundle import pictures_at_once
from hires.errors import HiresError
from hires.evaluation.landscape.basins import between, tree
from hires.evaluation.landscape.exploration import Config, Landscape, search
from hires.evaluation.landscape.exploration import check as check_config
from hires.evaluation.landscape.field import Field, in_ball, in_box
from hires.evaluation.landscape.tree import draw
from hires.evaluation.landscape.work import Work
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from hires.ground.files import whole_file
from hires.ground.images import to_uint8
from hires.ground.noise import generator

NEEDS = ("energy",)
INSIDE = 0.999  # share of N(0, I) in the ball of latents that is searched


def check(settings) -> None:
    """Raises HiresError for a setting that means nothing."""
    check_config(settings.landscape)


def measure(material: Material, settings) -> dict:
    """Minima, basins and barriers of the energy, in files in the material's folder; raises HiresError where it has none.

    Ended and begun again with the same settings, a search goes on.
    """
    config, subject = settings.landscape, material.subject
    check_config(config)
    if material.folder is None:
        raise HiresError("measure=landscape writes files: give run=…, or out=…/name.json with a bundle")
    field, start, pictures = _space(subject, config)
    folder = material.folder / f"landscape-{_identity(config)}"
    _same_networks(folder, field, start, material.first)
    with _bar(material.first) as show:
        found = search(field, start, config, Work(folder, show))
    real = material.of_pictures(subject.energy, "holdout", min(settings.images, material.shards.count("holdout"))).double()
    record = {"energy_of_held_out_pictures": {"mean": real.mean().item(), "sd": real.std().item()}, **describe(found, config)}
    name = f"landscape_{config.space}"
    if material.first:
        _write(material.folder / f"{name}.json", record)
        _write_points(material.folder / f"{name}.safetensors", found)
        if len(found.floors) > 1:
            levels = {"held-out pictures": real.mean().item(), "starts": record["energy_at_the_starts"]["mean"]}
            _figure(material.folder / f"{name}.png", found, pictures, levels, f"{subject.name}, {config.space} space")
    heights = [joint["above_the_higher_floor"] for joint in record["joints"]]
    numbers = {
        "descents": len(found.minima),
        "basins": len(found.floors),
        "basins_left_out": record["basins_left_out"],
        "lowest": float(found.energies[0]),
        "depth": found.depth,
        **({"barrier_median": float(np.median(heights))} if heights else {}),
        "record": f"{name}.json",
        **({"picture": f"{name}.png"} if heights else {}),
    }
    return {f"{name}_{key}": value for key, value in numbers.items()}


def describe(found: Landscape, config: Config) -> dict:
    """A landscape as JSON holds it: the settings, the starts, each basin's floor and members, the joints of the tree by rising height."""
    place = {floor: k for k, floor in enumerate(found.floors)}
    barriers = _floor_barriers(found)
    joined = tree(found.floors, barriers) if len(found.floors) > 1 else np.zeros((0, 4))
    floor_of = found.energies[found.floors].tolist()
    joints = []
    for a, b, height, _ in joined:
        sides = [floor_of[int(side)] for side in (a, b)]
        floor_of.append(min(sides))
        joints.append({"of": [int(a), int(b)], "height": float(height), "above_the_higher_floor": float(height) - max(sides)})
    return {
        "settings": vars(config),
        "depth": found.depth,
        "energy_at_the_starts": {"mean": found.start_energies.double().mean().item(), "sd": found.start_energies.double().std().item()},
        "slope_at_the_minima": {"median": found.slopes.median().item(), "largest": found.slopes.max().item()},
        "basins": [
            {"energy": found.energies[k].item(), "members": found.basin.count(k), "size": torch.linalg.vector_norm(found.minima[k]).item()}
            for k in found.floors
        ],
        "basins_left_out": len(set(found.basin)) - len(found.floors),
        "barriers": [[place[a], place[b], height] for (a, b), height in sorted(barriers.items())],
        "joints": joints,
    }


def _floor_barriers(found: Landscape) -> dict[tuple[int, int], float]:
    kept = set(found.floors)
    return {pair: height for pair, height in between(found.barriers, found.basin).items() if kept.issuperset(pair)}


def _space(subject: Subject, config: Config) -> tuple[Field, Callable[[int], Tensor], Callable[[Tensor], Tensor]]:
    """(field, start of a number, pictures of points): of latents in a ball, or of flat pictures in [-1, 1]."""
    shape = subject.channels, subject.resolution, subject.resolution
    at_once = max(1, pictures_at_once(subject.resolution) // 2)  # slopes take more memory than pictures
    if config.space == "pixel":
        field = Field(lambda x: subject.energy(x.unflatten(1, shape).to(subject.device)).cpu(), in_box(1.0), at_once)
        if subject.draw is None:
            return field, lambda i: 2 * torch.rand(math.prod(shape), generator=_stream(config, i)) - 1, lambda x: x.unflatten(1, shape)
        return field, lambda i: subject.draw([config.seed + i]).detach().float().cpu().flatten(), lambda x: x.unflatten(1, shape)
    if subject.generate is None:
        raise HiresError(f"landscape.space=latent: {subject.name} has no generator; say landscape.space=pixel")
    from scipy.stats import chi2

    radius = float(chi2.ppf(INSIDE, subject.latent)) ** 0.5
    field = Field(lambda z: subject.energy(subject.generate(z.to(subject.device))).cpu(), in_ball(radius), at_once)
    return field, lambda i: torch.randn(subject.latent, generator=_stream(config, i)), lambda z: subject.generate(z.to(subject.device))


def _stream(config: Config, i: int) -> torch.Generator:
    return generator(config.seed, "landscape start", i)


def _identity(config: Config) -> str:
    return f"{config.space}-{hashlib.sha256(json.dumps(vars(config), sort_keys=True).encode()).hexdigest()[:8]}"


def _same_networks(folder: Path, field: Field, start: Callable[[int], Tensor], first: bool) -> None:
    """Refuse to continue what other networks began: they give the first starts other energies."""
    energies = field.value(torch.stack([start(i) for i in range(2)])).double().tolist()
    path = folder / "starts.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if not np.allclose(before, energies, rtol=1e-3, atol=1e-4):
            raise HiresError(f"{folder}: begun with other networks (energies {before} at the first starts, now {energies}); remove it")
    elif first:
        _write(path, energies)


def _write_points(path: Path, found: Landscape) -> None:
    """The floors (N, d), and the paths (P, n, d) that barriers were found on with the floors that they join (P, 2)."""
    place = {floor: k for k, floor in enumerate(found.floors)}
    pairs = [pair for pair in found.paths if pair[0] in place and pair[1] in place]
    points = {"floors": found.minima[found.floors]}
    if pairs:
        points |= {
            "paths": torch.stack([found.paths[pair] for pair in pairs]),
            "joins": torch.tensor([[place[k] for k in pair] for pair in pairs]),
        }
    with whole_file(path) as part:
        part.write_bytes(save(points))


def _write(path: Path, record) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(record, indent=1), encoding="utf-8")


@torch.no_grad()
def _figure(path: Path, found: Landscape, pictures: Callable[[Tensor], Tensor], levels: dict[str, float], title: str) -> None:
    shown = to_uint8(pictures(found.minima[found.floors]).float().cpu()).permute(0, 2, 3, 1).numpy()
    members = np.array([found.basin.count(k) for k in found.floors])
    energies = found.energies[found.floors].double().numpy()
    joined = tree(found.floors, _floor_barriers(found))
    draw(path, energies, members, joined, np.repeat(shown, 3, 3) if shown.shape[3] == 1 else shown, levels, title)


@contextmanager
def _bar(first: bool):
    """A progress bar on the first rank's terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn("landscape: {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not (first and console.is_terminal)) as bar:
        tasks: dict[str, int] = {}

        def show(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=of)
            bar.update(tasks[stage], completed=done, total=of)

        yield show
