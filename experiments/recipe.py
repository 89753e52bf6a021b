"""Screens for the triangle's recipe: a short run of one configuration, measured with two samplers at several truncations, as a row.

    python experiments/recipe.py train NAME data=data/faces out=recipe objective.energy_weight=4 objective.beta=0.05
    python experiments/recipe.py measure NAME data=data/faces out=recipe rows=docs/records/recipe.jsonl verdict='…'
    python experiments/recipe.py table rows=docs/records/recipe.jsonl
    python experiments/recipe.py probe NAME data=data/faces out=recipe        # what the energy holds for likely; seconds

`train` is `hires train experiment=compare_32` with the screen's schedule, 96,000 images up to 16x16 (or size=32: 184,000) without decay;
the same command again goes on. start=OTHER:IMAGES begins at a checkpoint of another run in `out`: two settings from one point are
compared at a fraction of the cost. `measure` draws 1,000 samples from N(0, I) and, where there is an inference model, from the Gaussian
with the mean and covariance of the codes of 4,000 training pictures (the aggregate posterior), each at the truncations given (latents
times t about the mean), and appends a row to `rows`. Held-out pictures are judged in two halves: choose by the first, report the second.
Truncation lowers a Fréchet distance for every system, so read it beside the diversity: two systems are compared by the whole curve.
`probe` asks the energy that the generator follows, the weights themselves and not their average, about pictures that are no faces.
"""

from datetime import date
import json
from pathlib import Path
import platform
import shutil
import subprocess
import sys

import torch
from torch import Tensor

LENGTHS = {4: ("0", "16k"), 8: ("8k", "16k"), 16: ("16k", "40k"), 32: ("24k", "64k")}  # (fade, stable) images of a level
SAMPLES, CODES = 1000, 4000
TRUNCATIONS = (1.0, 0.8, 0.6)
OURS = ("data", "out", "size", "start", "rows", "truncations", "features", "verdict", "at")  # of this program; the rest is for hires train


def main(action: str, *words: str) -> None:
    """`train NAME …`, `measure NAME …`, `probe NAME …` or `table …`, with key=value behind."""
    name = words[0] if words and "=" not in words[0] else ""
    given, settings = {}, []
    for word in words[1:] if name else words:
        key, _, value = word.partition("=")
        if key in OURS:
            given[key] = value
        else:
            settings.append(word)
    if action == "train":
        train(name, given, settings)
    elif action == "measure":
        row = measure(name, given)
        print(json.dumps(row))
        with Path(given["rows"]).open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    elif action == "probe":
        print(probe(name, given))
    elif action == "table":
        print(table([json.loads(line) for line in Path(given["rows"]).read_text().splitlines()]))
    else:
        sys.exit(f"{action}: wanted train, measure, probe or table")


def train(name: str, given: dict[str, str], settings: list[str]) -> None:
    """Train NAME, or go on with it."""
    run, size = Path(given["out"]) / name, int(given.get("size", 16))
    own = [*settings]
    if "start" in given and not run.exists():
        fork(run.parent, given["start"], run)
    if "start" in given:
        own.append("train.allow_changes=true")
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_text(json.dumps({"settings": settings, "start": given.get("start", "")}))
    lengths = [f"schedule.levels.{r}.{k}={n}" for r, pair in LENGTHS.items() for k, n in zip(("fade", "stable"), pair, strict=True)]
    common = [f"run={run}", f"data.root={given['data']}", f"schedule.resolution={size}", "schedule.decay=0", "train.precision=fp32"]
    subprocess.run([sys.executable, "-m", "hires", "train", "experiment=compare_32", *common, *lengths, *own], check=True)


def fork(out: Path, start: str, run: Path) -> None:
    """A new run that stands where another one's checkpoint does; `start`: OTHER:IMAGES."""
    other, _, images = start.partition(":")
    shutil.copytree(out / other / "checkpoints" / f"images-{int(images):012d}", run / "checkpoints" / f"images-{int(images):012d}")


def measure(name: str, given: dict[str, str]) -> dict:
    """The row of a run: what it is, what its log said last, and what its pictures are like."""
    from hires.bundle import from_run
    from hires.bundle.aggregate import fit
    from hires.bundle.hires_bundle import latents
    from hires.evaluation import diversity, reconstruction, swd
    from hires.evaluation.fidelity import Config, opened
    from hires.evaluation.material import Material, as_pictures
    from hires.evaluation.reference import reference, user_cache
    from hires.evaluation.scores import frechet, precision_recall
    from hires.evaluation.subject import of_networks
    from hires.ground.images import save_grid
    from pipelines import Shards

    run = Path(given["out"]) / name
    loaded = from_run.load(str(run), given.get("at", ""))
    network = loaded.config.network
    size = loaded.resolution, network.image_channels, network.latent
    subject = of_networks(loaded.networks, loaded.config.objective, name, loaded.images, size, loaded.alpha, torch.device("cpu"))
    material = Material(subject, Shards.open(given["data"]), SAMPLES)
    features = opened(Config(features=given.get("features", "efficientnet")), material, user_cache())

    def described(x: Tensor) -> Tensor:
        return torch.cat([features.of(part) for part in x.split(material.at_once)])

    def in_parts(function, x: Tensor) -> Tensor:
        return torch.cat([function(part).cpu() for part in x.split(material.at_once)])

    real = material.held_out()
    half = len(real) // 2
    recipe = json.loads((run / "recipe.json").read_text()) if (run / "recipe.json").exists() else {}
    row: dict = {"name": name, **recipe, "resolution": loaded.resolution, "images": loaded.images, "seed": loaded.config.train.seed}
    row |= {"system": subject.system, "features": features.name, "log": last_measures(run, loaded.images), "curve": {}}
    with torch.no_grad():
        of_real, _ = reference(material, features, "holdout", SAMPLES, user_cache())
        other, _ = reference(material, features, "train", len(real), user_cache())
        row["floor"] = {"fd": frechet(other, of_real), "fd_report": frechet(other, of_real[half:])}
        if subject.energy:  # a VAE has none
            noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
            of_noise, of_faces = (in_parts(subject.energy, x) for x in (noise, real))
            row["energy"] = {"real": of_faces.mean().item(), "noise": of_noise.mean().item(), "auroc_noise": auroc(of_noise, of_faces)}
        z = latents(list(range(SAMPLES)), network.latent)
        samplers = {"prior": (torch.zeros(network.latent), torch.eye(network.latent))}
        if subject.posterior:
            both = material.of_pictures(lambda x: torch.stack(subject.posterior(x), 1), "train", CODES)
            aggregate = fit(lambda part: part.unbind(1), [both])
            samplers["aggregate"] = aggregate.mean, aggregate.factor
            row["aggregate"] = aggregate.told()
            back = in_parts(lambda x: subject.decode(subject.encode(x)).clamp(-1, 1), real)
            each = (back - real).square().mean((1, 2, 3))
            row |= {"mse_choose": each[:half].mean().item(), "mse_report": each[half:].mean().item()}
            row |= reconstruction.likeness(of_real, described(as_pictures(back)), features.classes)
        truncations = [float(t) for t in given["truncations"].split(",")] if "truncations" in given else TRUNCATIONS
        for sampler, (mean, factor) in samplers.items():
            for t in truncations:
                x = in_parts(subject.generate, mean + t * z @ factor.T)
                pictures = as_pictures(x)
                of_samples = described(pictures)
                precision, recall = precision_recall(of_samples, of_real)
                row["curve"][f"{sampler} {t:g}"] = {
                    "fd": frechet(of_samples, of_real),
                    "fd_choose": frechet(of_samples, of_real[:half]),
                    "fd_report": frechet(of_samples, of_real[half:]),
                    "diversity": diversity.diversity(pictures, real),
                    "precision": precision,
                    "recall": recall,
                    "swd": swd.sliced_wasserstein(pictures, real[: len(pictures)], torch.Generator().manual_seed(0)),
                    "burnt": swd.band_statistics(x, real).burnt,
                }
                if subject.energy:
                    row["curve"][f"{sampler} {t:g}"]["energy"] = in_parts(subject.energy, pictures).mean().item()
                save_grid(x[:64], run / f"recipe-{sampler}-{t:g}.png")
    told = json.loads((run / "environment.json").read_text()) if (run / "environment.json").exists() else {}
    where = {"commit": told.get("commit", "")[:9], "torch": told.get("torch", ""), "machine": platform.processor() or platform.machine()}
    return row | where | {"date": date.today().isoformat(), "verdict": given.get("verdict", "")}


PROBED = 400  # pictures of a kind
CONTRASTS = (0.0, 0.5, 0.8, 1.0, 1.25, 1.5, 2.0)
STEPS = (0.5, 1.0, 2.0, 4.0)


def probe(name: str, given: dict[str, str]) -> str:
    """Mean energies of pictures that are no faces, of faces at other contrasts, and after one step down it, as Markdown."""
    from hires.bundle.hires_bundle import latents
    from hires.checkpoints import reading
    from hires.training.game import empty_network
    from hires.training.settings import run_config
    from pipelines import Loader, Shards

    path = sorted((Path(given["out"]) / name / "checkpoints").glob("images-*"))[-1]
    checkpoint = reading.Checkpoint(path)
    config, size, fading = run_config(checkpoint.manifest["config"]), checkpoint.manifest["resolution"], checkpoint.manifest["fading"]
    nets = {player: empty_network(config, player, size, fading) for player in config.objective.players()}
    for player, network in nets.items():
        checkpoint.load_network(network, player, "weight")
        network.eval().requires_grad_(False)
    alpha = checkpoint.manifest["alpha"]
    held = Loader(Shards.open(given["data"]), size, "holdout", 0.0).read(torch.arange(PROBED).numpy()).float() / 127.5 - 1

    def energy(x: Tensor) -> Tensor:
        return nets["energy"](x, alpha)

    x_tilde = nets["generator"](latents(list(range(PROBED)), config.network.latent), alpha).clamp(-1, 1)
    faces = energy(held)
    kinds = {"held-out faces": held, "samples": x_tilde, **strangers(held)}
    lines = [
        f"{path.name}, {PROBED} pictures of a kind, weights",
        "",
        "| pictures | mean U | AUROC against held-out faces |",
        "| --- " * 3 + "|",
    ]
    lines += [f"| {kind} | {energy(x).mean():+.2f} | {auroc(energy(x), faces):.2f} |" for kind, x in kinds.items()]
    lines += ["", f"| contrast | {' | '.join(f'×{c:g}' for c in CONTRASTS)} |", "| --- " * (len(CONTRASTS) + 1) + "|"]
    for kind, x in (("held-out faces", held), ("samples", x_tilde)):
        grey = x.mean((2, 3), keepdim=True)
        lines.append(f"| {kind} | {' | '.join(f'{energy(grey + c * (x - grey)).mean():+.2f}' for c in CONTRASTS)} |")
    leaf = x_tilde.requires_grad_()
    (slope,) = torch.autograd.grad(energy(leaf).sum(), leaf)
    after = [energy((x_tilde.detach() - s * slope).clamp(-1, 1)).mean().item() for s in STEPS]
    told = "; ".join(f"s = {s:g}: {u:+.2f}" for s, u in zip(STEPS, after, strict=True))
    return "\n".join([*lines, "", f"Samples after one step x − s ∂U/∂x, clamped: {told}."])


def strangers(x: Tensor) -> dict[str, Tensor]:
    """Pictures (N, C, r, r) that are no faces, by kind, made of faces x or of nothing."""
    dice = torch.Generator().manual_seed(0)
    side = x.shape[-1] // 4
    blocks = x.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)[:, :, torch.randperm(16, generator=dice)]
    return {
        "uniform noise": torch.rand(x.shape, generator=dice) * 2 - 1,
        "grey": torch.zeros_like(x),
        "shuffled blocks, 4×4 of them": blocks.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape),
        "blurred 2×2": torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(x, 2), scale_factor=2.0),
        "upside down": x.flip(2),
    }


def auroc(above: Tensor, below: Tensor) -> float:
    """The share of pairs in which an energy of `above` (N,) is higher than one of `below` (M,)."""
    return (above[:, None] > below).double().mean().item()


def last_measures(run: Path, images: int) -> dict[str, float]:
    """Means of the log's measures over the last fifth of the level that ends at `images`."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in records if "seconds_per_kimg" in record and record["images"] <= images]
    records = [record for record in records if record["resolution"] == records[-1]["resolution"] and record["alpha"] == 1]
    records = records[-max(1, len(records) // 5) :]
    names = [name for name in ("rho", "K", "N", "R", "diversity", "energy_gap", "seconds_per_kimg") if name in records[-1]]
    return {name: sum(record[name] for record in records) / len(records) for name in names}


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table: Fréchet distance (diversity, recall) at each truncation of each sampler."""
    head = [
        "run",
        "settings",
        "px",
        "images",
        "sampler",
        "FD (diversity, recall) by truncation",
        "swd ×1000",
        "burnt",
        "mse",
        "found",
        "ρ",
        "K",
        "N",
    ]
    lines = [f"| {' | '.join([*head, 'AUROC of noise', 'verdict'])} |", "| --- " * (len(head) + 2) + "|"]
    for row in rows:
        for sampler in dict.fromkeys(key.split()[0] for key in row["curve"]):
            points = {key.split()[1]: point for key, point in row["curve"].items() if key.startswith(sampler)}
            curve = "; ".join(f"×{t}: **{p['fd']:.1f}** ({p['diversity']:.2f}, {p['recall']:.2f})" for t, p in points.items())
            first, log = next(iter(points.values())), row["log"]
            settings = " ".join(f"`{s.removeprefix('objective.')}`" for s in row.get("settings", []))
            settings += f", from {row['start']}" if row.get("start") else ""
            cells = [row["name"], settings, row["resolution"], f"{row['images'] // 1000} k", sampler, curve]
            cells += [
                "/".join(f"{v:.0f}" for v in first["swd"]),
                f"{first['burnt']:.3f}",
                f"{row['mse_report']:.4f}" if "mse_report" in row else "",
                f"{row['found']:.3f}" if "found" in row else "",
            ]
            cells += [f"{log[name]:.2f}" if name in log else "" for name in ("rho", "K", "N")]
            cells.append(f"{row['energy']['auroc_noise']:.2f}" if "energy" in row else "")
            lines.append(f"| {' | '.join(map(str, [*cells, row['verdict']]))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
