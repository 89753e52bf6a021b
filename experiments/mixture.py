"""P4's univariate mixture: what a Gaussian energy-based model learns of 0.33 N(-1, 0.25^2) + 0.67 N(2, 2) by each f-divergence.

    python experiments/mixture.py                      # docs/images/mixture_*.png and the table of docs/records/f_ebm.md, 80 s of a core
    python experiments/mixture.py --steps 200 --out X  # a look

E(x) = (x - mu)^2 / (2 sigma^2) from mu = 0, sigma = 1; samples of q are exact; H is 1-64-64-1 with tanh; batches of 500, of the data 165
and 335 from the two parts. Not as published: Adam instead of SGD, rates that fall to zero, smaller batches (the code's are 1,000) and
fewer steps, so that it ends within minutes. The optimum is found by quadrature of D_f itself, without any learning.
"""

import argparse
from itertools import pairwise
import math
from pathlib import Path
import time

import numpy as np
from scipy.optimize import minimize
from scipy.stats import ks_2samp
import torch
from torch import Tensor

from hires.objectives.divergences import Divergence, bound, divergence, energy_loss, quadrature

WEIGHTS, MEANS, DEVIATIONS = (0.33, 0.67), (-1.0, 2.0), (0.25, math.sqrt(2))
RUNS = {
    "KL": ("kl", 0.0),
    "reverse KL": ("reverse_kl", 0.0),
    "Jensen–Shannon": ("jensen_shannon", 0.0),
    "squared Hellinger": ("squared_hellinger", 0.0),
    "Pearson χ²": ("pearson", 0.0),
    "Neyman χ²": ("neyman", 0.0),
    "α = −0.5": ("alpha", -0.5),
    "α = 0.9": ("alpha", 0.9),
}
PUBLISHED = {  # (mu, sigma) that the published code reports for f-EBM
    "KL": (1.0154, 1.8302), "reverse KL": (1.5852, 1.6345), "Jensen–Shannon": (1.3167, 1.7604), "squared Hellinger": (1.3227, 1.7471),
    "Pearson χ²": (0.5656, 1.9346), "Neyman χ²": (1.8268, 1.5160), "α = −0.5": (1.7433, 1.5521),
    "α = 0.9": (1.0724, 1.8185),
}  # fmt: skip
STARTS = [(0.0, 1.0), (-2.0, 0.7), (4.0, 1.0), (4.0, 3.5)]
LIMIT, FIRST = 3.0, 200
BETAS, RATES = (0.5, 0.99), (3e-3, 4e-3)  # of Adam; of H and of (mu, log sigma)
DRAWS = 2000  # accepted by rejection, tested against as many of the mixture


def log_normal(x: Tensor, mean, deviation) -> Tensor:
    return -(((x - mean) / deviation) ** 2) / 2 - torch.as_tensor(deviation).log() - math.log(2 * math.pi) / 2


def log_mixture(x: Tensor) -> Tensor:
    parts = [math.log(w) + log_normal(x, m, s) for w, m, s in zip(WEIGHTS, MEANS, DEVIATIONS, strict=True)]
    return torch.logsumexp(torch.stack(parts), 0)


def from_mixture(shape: tuple[int, int], dice: torch.Generator) -> Tensor:
    """(M, n) draws, the parts in their exact shares of n."""
    m, n = shape
    first = round(WEIGHTS[0] * n)
    e = torch.randn(m, n, generator=dice)
    return torch.cat([MEANS[0] + DEVIATIONS[0] * e[:, :first], MEANS[1] + DEVIATIONS[1] * e[:, first:]], 1)


def from_parts(n: int, dice: torch.Generator) -> list[Tensor]:
    """n draws of each part of the mixture."""
    return [m + s * torch.randn(n, generator=dice) for m, s in zip(MEANS, DEVIATIONS, strict=True)]


def optimum(d: Divergence) -> tuple[float, float]:
    """(mu, sigma) that minimises D_f, by quadrature on [-30, 32] (20,001 nodes) and Nelder-Mead."""
    x, width = torch.linspace(-30, 32, 20_001, dtype=torch.float64), 62 / 20_000
    p = log_mixture(x).exp()

    def value(at: np.ndarray) -> float:
        q = log_normal(x, at[0], math.exp(at[1])).exp()
        return quadrature(d, p, q, width).item()

    found = minimize(value, [1.3, math.log(1.8)], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-10})
    return found.x[0], math.exp(found.x[1])


class Variational(torch.nn.Module):
    """M networks H, 1-64-64-1 with tanh, side by side: (M, n) -> (M, n)."""

    def __init__(self, m: int, dice: torch.Generator):
        super().__init__()
        sizes = [1, 64, 64, 1]
        pairs = list(pairwise(sizes))
        self.weights = torch.nn.ParameterList([torch.randn(m, i, o, generator=dice) / math.sqrt(i) for i, o in pairs])
        self.biases = torch.nn.ParameterList([torch.zeros(m, 1, o) for _, o in pairs])

    def forward(self, x: Tensor) -> Tensor:
        h = x[..., None]
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            h = h.tanh() if i < 2 else h
        return h[..., 0]


def learn(
    divergences: list[Divergence], starts: list[tuple[float, float]], steps: int, seed: int, batch: int = 1000, speed: float = 1.0
) -> tuple[Tensor, Variational]:
    """One f-EBM for each divergence and start, side by side; the path of (mu, sigma), (steps + 1, M, 2), and the last networks H.

    In the first FIRST steps H alone learns, by the Jensen-Shannon bound: its maximum log p/q is that of every other, and an H that is far
    from it gets lost where the others' slopes vanish (Pearson's falls as e^r).
    """
    dice, m = torch.Generator().manual_seed(seed), len(divergences)
    mu = torch.tensor([[s[0]] for s in starts], requires_grad=True)
    log_sigma = torch.tensor([[math.log(s[1])] for s in starts], requires_grad=True)
    H = Variational(m, dice)
    adams = [torch.optim.Adam(of, lr=lr * speed, betas=BETAS) for of, lr in zip((H.parameters(), [mu, log_sigma]), RATES, strict=True)]
    falls = [torch.optim.lr_scheduler.LambdaLR(adam, lambda step: min(1.0, 2 * (1 - step / steps))) for adam in adams]

    def energy(x: Tensor) -> Tensor:
        return ((x - mu) / log_sigma.exp()).square() / 2

    path = [torch.cat([mu, log_sigma.exp()], 1).detach()]
    safe = divergence("jensen_shannon")
    for step in range(FIRST + steps):
        x_p = from_mixture((m, batch), dice)
        x_q = (mu + log_sigma.exp() * torch.randn(m, batch, generator=dice)).detach()
        e_p, e_q = energy(x_p), energy(x_q)
        both = H(torch.cat([x_p, x_q], 1)) + torch.cat([e_p, e_q], 1).detach()
        # omega first; every network has its own sum, so the sum over them trains each by its own loss
        loss = -sum(bound(safe if step < FIRST else d, r[:batch], r[batch:]) for d, r in zip(divergences, both, strict=True))
        adams[0].zero_grad()
        loss.backward()
        adams[0].step()
        if step < FIRST:
            continue
        with torch.no_grad():
            h = H(torch.cat([x_p, x_q], 1))
        r_p, r_q = h[:, :batch] + e_p, h[:, batch:] + e_q
        adams[1].zero_grad()
        sum(energy_loss(d, *row) for d, *row in zip(divergences, r_p, r_q, e_q, strict=True)).backward()
        adams[1].step()
        for fall in falls:
            fall.step()
        path.append(torch.cat([mu, log_sigma.exp()], 1).detach())
    return torch.stack(path), H


@torch.no_grad()
def log_ratio(ends: Tensor, H: Variational, x: Tensor) -> Tensor:
    """r = H + E, the learned log p/q up to a constant, of x (M, n)."""
    return torch.cat([H(part) for part in x.split(10_000, 1)], 1) + ((x - ends[:, :1]) / ends[:, 1:]).square() / 2


def rejection(ends: Tensor, H: Variational, seed: int) -> list[tuple[float, float, float, np.ndarray]]:
    """For each model: the share accepted, Kolmogorov-Smirnov statistic and p of DRAWS accepted draws against the mixture, and those.

    x ~ q is accepted with probability min(1, e^r / M), r = H + E, M the 99.9 % quantile of e^r over 100,000 draws.
    """
    dice, m = torch.Generator().manual_seed(seed), len(ends)
    mu, sigma = ends[:, :1], ends[:, 1:]
    x = mu + sigma * torch.randn(m, 100_000, generator=dice)
    r = log_ratio(ends, H, x)
    top = r.quantile(0.999, 1, keepdim=True)
    accepted = torch.rand(m, 100_000, generator=dice) < (r - top).exp()
    truth = torch.where(torch.rand(DRAWS, generator=dice) < WEIGHTS[0], *from_parts(DRAWS, dice))
    found = []
    for xs, yes in zip(x, accepted, strict=True):
        kept = xs[yes][:DRAWS].numpy()
        test = ks_2samp(kept, truth.numpy())
        found.append((yes.float().mean().item(), test.statistic, test.pvalue, kept))
    return found


def table(best: list[tuple[float, float]], ends: Tensor, redrawn: list) -> str:
    """A row for each divergence."""
    rows = ["| divergence | optimum μ, σ | learned | off by | published code | accepted | KS | p |", "|" + " --- |" * 8]
    for name, (m, s), (mu, sigma), (share, distance, chance, _) in zip(RUNS, best, ends.tolist(), redrawn, strict=True):
        theirs, off = "{:.3f}, {:.3f}".format(*PUBLISHED[name]), max(abs(mu - m), abs(sigma - s))
        test = f"{share:.0%} | {distance:.3f} | {chance:.2f}"
        rows.append(f"| {name} | {m:.4f}, {s:.4f} | {mu:.4f}, {sigma:.4f} | {off:.3f} | {theirs} | {test} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="P4's univariate mixture")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1, help="so many runs, seeds 0, 1, …; figures are of the first")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    args = parser.parse_args()
    import mixture_figures  # which takes its densities from here

    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    divergences = [divergence(*run, limit=LIMIT) for run in RUNS.values()]
    best = [optimum(divergence(*run, limit=50)) for run in RUNS.values()]
    for seed in range(args.seeds):
        began = time.process_time()
        path, H = learn(divergences, [STARTS[0]] * len(RUNS), args.steps, seed, args.batch)
        ends = path[-args.steps // 5 :].mean(0)
        redrawn = rejection(path[-1], H, seed)
        print(f"seed {seed}: {args.steps} steps, {time.process_time() - began:.0f} s of processor time")
        print(table(best, ends, redrawn), flush=True)
        if seed == 0:
            mixture_figures.densities(args.out / "mixture_densities.png", ends)
            mixture_figures.rejections(args.out / "mixture_rejection.png", path[-1], H, redrawn)
    shown = list(RUNS)[:3]
    pairs = [(name, start) for name in shown for start in STARTS]
    divergences, starts = [divergence(*RUNS[name], limit=LIMIT) for name, _ in pairs], [start for _, start in pairs]
    path, _ = learn(divergences, starts, args.steps // 3, 0, args.batch // 2, speed=3.0)
    mixture_figures.trajectories(args.out / "mixture_paths.png", shown, best, path.unflatten(1, (len(shown), len(STARTS))))
    far = (path[-args.steps // 15 :].mean(0).unflatten(0, (len(shown), -1)) - torch.tensor(best[: len(shown)])[:, None]).abs().amax((1, 2))
    print("farthest from the optimum of all starts:", ", ".join(f"{name} {d:.3f}" for name, d in zip(shown, far.tolist(), strict=True)))


if __name__ == "__main__":
    main()
