"""Every system on three sets in the plane whose densities are known: samples, energies, modes, KL divergences to the truth.

    python experiments/plane.py                        # runs/plane/*.npz, docs/images/plane_*.png and the tables of docs/records/plane.md
    python experiments/plane.py --sets pinwheel --systems GAN,VGAN --seeds 0 --shorten 10 --images /tmp/look

The rounds are those of hires.objectives, the very code that trains on images; the players are small perceptrons (plane_networks.py).
What a run ended with is kept in --work, and computed again where its settings are others.
"""

import argparse
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
import re
import time

import numpy as np
from plane_networks import Learner, network
from plane_sets import SETS, PlaneSet, energy_kl, grid, held, samples_kl, shares
import torch
from torch import Tensor, nn
import torch.distributed as dist

from hires.ground.files import whole_file
from hires.networks.transition import markov_chain
from hires.objectives import SYSTEMS
from hires.objectives.base import Rates
from hires.objectives.replay import ChainsConfig, refine

BATCH, DRAWS, TRANSITIONS, FROM_NOISE = 256, 5000, 40, 300  # the last two: VCD's transitions and Langevin's steps that samples take
STEP = 0.03  # of Langevin, with noise as large: it samples exp(-U), at temperature 1
CHAINS = ChainsConfig(steps=10, step_size=STEP**2 / 2, noise=STEP, reach=0.1, replay=10_000, restart=0.05)
# the theory's weights beside the energy are kappa = D / 2 s^2, beta = 1 and lambda_z = d; these are a tenth of them at s = 0.08
TRIANGLE = {"kappa_pixel": 16.0, "kappa_max": 16.0, "beta": 0.1, "lambda_z": 0.2, "lambda_u": 0.01, "r1": 0.02, "range": 10.0}
TRIANGLE |= {"energy_weight": 4.0, "energy_sees": "samples"}  # points have no contrast and no blocks
PAIRS = {"kappa_pixel": 16.0, "beta": 0.1, "lambda_u": 0.01, "r1": 0.02, "r1_z": 0.01, "range": 10.0}
CHAINED = {"lambda_u": 0.01, "data_noise": 0.0, "chains": CHAINS}
F_EBM = CHAINED | {"lambda_h": 0.01}


@dataclass(frozen=True)
class System:
    """An objective with its settings, and how long and how fast it learns; rates fall to zero in the second half."""

    objective: str
    rounds: int
    settings: dict = field(default_factory=dict)
    latent: int = 2
    lr: float = 1e-3
    energy_lr: float = 1e-3
    betas: tuple[float, float] = (0.0, 0.99)


NAMES = {
    "triangle": System("divergence_triangle", 2500, TRIANGLE),
    "bounded triangle": System("divergence_triangle", 2500, TRIANGLE | {"energy": "experts", "lambda_u": 0.0, "r1": 0.01}),
    "latent EBM": System("latent_ebm", 2500, PAIRS),
    "VGAN": System("vgan", 3000, {"experts": 64}, energy_lr=3e-4),
    "GAN": System("gan", 3000, energy_lr=3e-4),
    "VCD": System("vcd", 3000, {"experts": 64, "rho": 0.5}, latent=8, energy_lr=3e-4),
    "contrastive div.": System("contrastive_divergence", 1500, CHAINED),
    "f-EBM KL": System("f_ebm", 1500, F_EBM | {"divergence": "kl"}, lr=3e-3, energy_lr=6e-4),
    "f-EBM reverse KL": System("f_ebm", 1500, F_EBM | {"divergence": "reverse_kl", "limit": 3.0}, lr=3e-3, energy_lr=6e-4),
    "f-EBM JS": System("f_ebm", 1500, F_EBM | {"divergence": "jensen_shannon"}, lr=3e-3, energy_lr=6e-4),
    "f-EBM JS + generator": System(
        "f_ebm",
        1500,
        F_EBM | {"divergence": "jensen_shannon", "sampler": "generator", "chains": replace(CHAINS, steps=20)},
        lr=3e-3,
        energy_lr=6e-4,
    ),
}


def learn(system: System, truth: PlaneSet, seed: int, rounds: int) -> tuple[object, dict[str, nn.Module]]:
    """`rounds` rounds of the system's game on draws of `truth`; its configuration and the averaged networks (half-life: a twentieth)."""
    torch.manual_seed(seed)  # of the starting weights
    dice = torch.Generator().manual_seed(seed)
    module = SYSTEMS[system.objective]
    config = module.Settings(**system.settings)
    players = {name: Learner(network(config, name, system.latent), system.betas) for name in config.players()}
    objective = module(config, system.latent, players)

    def draw(stream: str, size: int) -> Tensor:
        return torch.randn(BATCH, size, generator=dice)

    for i in range(rounds):
        rate = min(1.0, 2 * (1 - i / rounds))
        x = truth.sample(BATCH, dice)[:, :, None, None]
        batch = objective.batch(x, 1.0, draw, system.latent)
        objective.round(batch, Rates(rate * system.lr, rate * system.energy_lr, 0.5 ** (20 / rounds)), 1, i % objective.every == 0)
    return config, {name: player.average for name, player in players.items()}


@torch.no_grad()
def energies(networks: dict[str, nn.Module], latent_ebm: bool) -> Tensor:
    """U on the grid (CELLS^2,); of pairs, U(x, mu(x))."""
    x, U = grid()[:, :, None, None], networks["energy"]
    return U(x, networks["inference"](x)[0]) if latent_ebm else U(x)


def draws(system: System, config, networks: dict[str, nn.Module], truth: PlaneSet, seed: int) -> Tensor:
    """DRAWS samples (n, 2) as the system makes them.

    G(z); VCD: the end of chains of TRANSITIONS from true points; with an energy alone, FROM_NOISE Langevin steps from uniform noise; with
    proposals, Langevin from G(z) as in training.
    """
    dice = torch.Generator().manual_seed(10_000 + seed)

    def draw(stream: str, size: int) -> Tensor:
        return torch.randn(DRAWS, size, generator=dice)

    if "generator" not in networks:
        begin = 2 * torch.rand(DRAWS, 2, 1, 1, generator=dice) - 1
        x, _ = refine(replace(config.chains, steps=FROM_NOISE), networks["energy"], begin, draw)
    elif system.objective == "vcd":
        begin = truth.sample(DRAWS, dice)[:, :, None, None]
        x = markov_chain(networks["inference"], networks["generator"], begin, TRANSITIONS, dice)[:, -1]
    else:
        with torch.no_grad():
            x = networks["generator"](draw("latent", system.latent))
        if system.objective == "f_ebm":
            x, _ = refine(config.chains, networks["energy"], x, draw)
    return x.detach().flatten(1)


def run(name: str, set_name: str, seed: int, shorten: int, path: Path) -> None:
    """Train one system on one set and write its samples and its energies on the grid, unless `path` has those of the same settings."""
    system, truth, began = NAMES[name], SETS[set_name], time.process_time()
    made_by = f"{system}, {system.rounds // shorten} rounds of {BATCH}"
    if path.exists() and str(np.load(path)["made_by"]) == made_by:
        return
    config, networks = learn(system, truth, seed, system.rounds // shorten)
    x, u = draws(system, config, networks, truth, seed), energies(networks, system.objective == "latent_ebm")
    seconds = time.process_time() - began
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, x=x.numpy(), u=u.numpy(), made_by=made_by)
    print(f"{path.name}: {seconds:.0f} s, {held(truth, x)} of {truth.pieces}, KL {samples_kl(truth, x):.3f}", flush=True)


def row(name: str, truth: PlaneSet, runs: list[dict]) -> str:
    """A line of a table: pieces held by each seed, then means over the seeds with the largest distance from them."""

    def spread(values: list[float], form: str) -> str:
        mean = float(np.mean(values))
        off = f" ± {max(abs(v - mean) for v in values):{form}}" if len(values) > 1 else ""
        return f"{mean:{form}}{off}"

    points = [torch.from_numpy(one["x"]) for one in runs]
    cells = [", ".join(str(held(truth, x)) for x in points), spread([100 * shares(truth, x)[1] for x in points], ".0f")]
    cells.append(spread([samples_kl(truth, x) for x in points], ".3f"))
    if name == "GAN" or "u" not in runs[0]:
        cells += ["–"] * 3
    else:
        found = [energy_kl(truth, torch.from_numpy(one["u"])) for one in runs]
        b = f"{np.mean([f[2] for f in found]):.2g}" if np.ptp(runs[0]["u"]) else "–"  # of a flat energy any
        cells += [spread([f[0] for f in found], ".2f"), spread([f[1] for f in found], ".2f"), b]
    return f"| {name} | {' | '.join(cells)} |"


def table(truth: PlaneSet, runs: dict[str, list[dict]]) -> str:
    """A row for true samples, the floor of what can be reached, one for uniform noise, and one for each system."""
    dice = torch.Generator().manual_seed(77)
    rows = [f"| system | held of {truth.pieces} | outside % | KL of samples | KL of e^−U | of e^−bU | b |", "|" + " --- |" * 7]
    seeds = range(max((len(found) for found in runs.values()), default=1))
    rows.append(row("true samples", truth, [{"x": truth.sample(DRAWS, dice).numpy()} for _ in seeds]))
    noise = [{"x": (2 * torch.rand(DRAWS, 2, generator=dice) - 1).numpy(), "u": np.zeros(len(grid()), np.float32)} for _ in seeds]
    rows.append(row("uniform noise", truth, noise))
    return "\n".join(rows + [row(name, truth, found) for name, found in runs.items()])


def main() -> None:
    parser = argparse.ArgumentParser(description="the systems on sets in the plane")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--systems", default=",".join(NAMES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--shorten", type=int, default=1, help="learn for so many times fewer rounds")
    parser.add_argument("--work", type=Path, default=Path("runs/plane"))
    parser.add_argument("--images", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    args = parser.parse_args()
    import plane_figures

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # the objectives reduce over ranks: here over one
    sets, names, seeds = args.sets.split(","), args.systems.split(","), args.seeds.split(",")

    def path(set_name: str, name: str, seed: str) -> Path:
        return args.work / f"{set_name}-{re.sub(r'[^A-Za-z]+', '_', name)}-{seed}.npz"

    for seed, set_name, name in product(seeds, sets, names):
        run(name, set_name, int(seed), args.shorten, path(set_name, name, seed))
    for set_name in sets:
        found = {name: [dict(np.load(path(set_name, name, seed))) for seed in seeds] for name in names}
        print(f"\n{set_name}\n\n{table(SETS[set_name], found)}")
        plane_figures.page(args.images / f"plane_{set_name}.png", SETS[set_name], {n: (f[0]["x"], f[0]["u"]) for n, f in found.items()})


if __name__ == "__main__":
    main()
