"""The figures of experiments/mixture.py: learned densities, the density ratio and rejection sampling, paths of learning."""

from pathlib import Path

from matplotlib import pyplot as plt
from mixture import RUNS, STARTS, log_mixture, log_normal, log_ratio
import torch
from torch import Tensor

SHOWN = ["KL", "reverse KL", "Jensen–Shannon", "squared Hellinger", "Pearson χ²", "Neyman χ²", "α = −0.5"]


def _save(path: Path) -> None:
    plt.tight_layout()
    plt.savefig(path, dpi=110)
    plt.close()
    print(f"wrote {path}")


def densities(path: Path, ends: Tensor) -> None:
    """The mixture and the Gaussian that each divergence ends at."""
    x = torch.linspace(-5, 8, 800)
    plt.figure(figsize=(8, 4))
    plt.fill_between(x, log_mixture(x).exp(), color="0.85", label="data")
    for name, (mu, sigma) in zip(RUNS, ends.tolist(), strict=True):
        if name in SHOWN:
            plt.plot(x, log_normal(x, mu, sigma).exp(), label=f"{name}: μ {mu:.2f}, σ {sigma:.2f}")
    plt.legend(fontsize=8)
    plt.xlabel("x")
    plt.ylabel("density")
    _save(path)


def rejections(path: Path, ends: Tensor, H, redrawn: list) -> None:
    """For four divergences: the learned log-ratio beside the true one, and accepted draws beside the data."""
    x = torch.linspace(-3, 7, 400)
    learned = log_ratio(ends, H, x.expand(len(ends), -1))
    names = list(RUNS)
    _, axes = plt.subplots(2, 4, figsize=(13, 5.5), sharex=True)
    for column, name in enumerate(SHOWN[:4]):
        i = names.index(name)
        ratio, draws = axes[:, column]
        mu, sigma = ends[i].tolist()
        true = log_mixture(x) - log_normal(x, mu, sigma)
        ratio.plot(x, true, "0.5", label="log p/q")
        ratio.plot(x, learned[i], "C3--", label="H + E")
        ratio.set_title(name)
        draws.hist(redrawn[i][3], bins=80, range=(-3, 7), density=True, color="C0", alpha=0.6, label="accepted")
        draws.plot(x, log_mixture(x).exp(), "0.2", label="data")
        draws.plot(x, log_normal(x, mu, sigma).exp(), "C1--", label="model")
        for axis in (ratio, draws):
            axis.legend(fontsize=7)
    _save(path)


def trajectories(path: Path, shown: list[str], best: list[tuple[float, float]], paths: Tensor) -> None:
    """(mu, sigma) from several starts, (steps + 1, divergences, starts, 2), to the optimum."""
    _, axes = plt.subplots(1, len(shown), figsize=(3.4 * len(shown), 3.6), sharey=True)
    for i, (axis, name) in enumerate(zip(axes, shown, strict=True)):
        for j, start in enumerate(STARTS):
            axis.plot(*paths[:, i, j].T, lw=1, color=f"C{j}")
            axis.plot(*start, "o", color=f"C{j}", ms=4)
        axis.plot(*best[i], "k*", ms=12)
        axis.set_title(name)
        axis.set_xlabel("μ")
    axes[0].set_ylabel("σ")
    _save(path)
