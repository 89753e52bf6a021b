"""The systems side by side at 32x32: each trains about as long on one core with the same networks, and is measured the same way.

    python experiments/compare_systems.py train data=data/faces out=compare/faces seconds=180      # all, or systems=vgan,gan
    python experiments/compare_systems.py measure data=data/faces out=compare/faces
    python experiments/compare_systems.py show out=compare/faces picture=systems.png

`train` runs each system for a few steps of every phase, sets the images of each level so that the levels take fixed shares of the seconds,
and trains it by `hires train experiment=compare_32`; the same command again goes on with the systems that are not done. `measure` is
`hires evaluate` of each run, `show` the tables of what is there and a picture, a row of samples a system. Seed 0; batch and rate are each
system's own recipe.
"""

import json
import os
from pathlib import Path
import resource
import shutil
import subprocess
import sys

# name: settings, on top of experiment=compare_32
WIDE = [f"schedule.levels.{r}.{setting}" for r in (4, 8, 16, 32) for setting in ("batch=32", "lr=2e-3")]
SMALL_BUFFER = "objective.chains.replay=1000"  # of 10,000, each would be taken out but three times in 30,000 images
SYSTEMS = {
    "triangle": ["objective=divergence_triangle"],
    "bounded": ["objective=bounded"],
    "latent_ebm": ["objective=latent_ebm"],
    "vae": ["objective=vae"],
    "vgan": ["objective=vgan", *WIDE],
    "gan": ["objective=gan", *WIDE],
    "vcd": ["objective=vcd", "objective.rho=0.5", "objective.generator_steps=2", "schedule.energy_lr=0.5", *WIDE],
    "f_ebm": ["objective=f_ebm", SMALL_BUFFER, *WIDE],
    "f_ebm_generator": ["objective=f_ebm", "objective.sampler=generator", *WIDE],
    "contrastive_divergence": ["objective=contrastive_divergence", SMALL_BUFFER, *WIDE],
}
ENCODED = ("triangle", "bounded", "latent_ebm", "vae", "vcd")  # have an inference model
SCORES = ("energy", "pair_energy", "reconstruction")  # of measure=detection
LEVELS = (4, 8, 16, 32)
SHARES = {4: 0.1, 8: 0.15, 16: 0.25, 32: 0.5}  # of the seconds
FADE = 1 / 3  # of a level's seconds
TRIAL = 256  # images of each phase that are timed
TOGETHER = 32  # images are rounded to whole batches of this


def main(action: str, *settings: str) -> None:
    """`train`, `measure` or `show`, with key=value behind it."""
    given = dict(setting.split("=", 1) for setting in settings)
    out = Path(given["out"])
    names = given["systems"].split(",") if "systems" in given else list(SYSTEMS)
    if action == "show":
        runs = [out / name for name in SYSTEMS if (out / name / "budget.json").exists()]
        print(table(runs))
        if "picture" in given:
            picture(runs, given["picture"])
    for name in names if action != "show" else []:
        {"train": train, "measure": measure}[action](name, given, out)


def hires(*arguments: str) -> float:
    """Run a verb; its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "hires", *arguments], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train(name: str, given: dict, out: Path) -> None:
    """Time the system, choose its images, train it; writes budget.json beside the run."""
    common = ["train", "experiment=compare_32", f"data.root={given['data']}", *SYSTEMS[name], "train.trial=false"]
    told = out / name / "budget.json"
    if told.exists():
        return
    plan = out / name / "images.json"
    if not plan.exists():
        trial = out / f"{name}-trial"
        shutil.rmtree(trial, ignore_errors=True)
        short = {r: (0 if r == LEVELS[0] else TRIAL, TRIAL) for r in LEVELS}
        hires(*common, f"run={trial}", *lengths(short), "schedule.decay=0", f"monitor.status_every={TRIAL}", "monitor.snapshot_every=1M")
        images = chosen(rates(trial / "metrics.jsonl"), float(given["seconds"]))
        shutil.rmtree(trial)
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps(images))
    images = {int(r): pair for r, pair in json.loads(plan.read_text()).items()}
    shutil.rmtree(plan.parent)  # a run that was interrupted begins anew: its seconds are to be whole
    plan.parent.mkdir()
    plan.write_text(json.dumps(images))
    decay = images[LEVELS[-1]][1] // 2
    seconds = hires(*common, f"run={out / name}", *lengths(images), f"schedule.decay={decay}", *extra(given))
    total = sum(map(sum, images.values()))
    told.write_text(json.dumps({"system": name, "images": total, "seconds": round(seconds, 1), "levels": images, "of": SYSTEMS[name]}))


def extra(given: dict) -> list[str]:
    """Settings for `hires train` behind those of this program: settings=a=1;b=2."""
    return [part for part in given.get("settings", "").split(";") if part]


def lengths(images: dict[int, tuple[int, int]]) -> list[str]:
    """The overrides that give each level its images (fading, stable)."""
    return [f"schedule.levels.{r}.{k}={n}" for r, pair in images.items() for k, n in zip(("fade", "stable"), pair, strict=True)]


def rates(metrics: Path) -> dict[tuple[int, bool], float]:
    """Seconds an image of each (resolution, fading), from a trial's records."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    of_status = [record for record in records if "seconds_per_kimg" in record]
    found = {}
    for i, (r, fading) in enumerate((r, fading) for r in LEVELS for fading in (True, False) if (r, fading) != (LEVELS[0], True)):
        assert of_status[i]["resolution"] == r, of_status[i]
        found[r, fading] = of_status[i]["seconds_per_kimg"] / 1000
    return found


def chosen(rate: dict[tuple[int, bool], float], seconds: float) -> dict[int, tuple[int, int]]:
    """Images (fading, stable) of each level that take their shares of the seconds."""
    images = {}
    for r in LEVELS:
        share = SHARES[r] * seconds
        fade = 0.0 if r == LEVELS[0] else FADE * share
        counts = (fade / rate[r, True] if fade else 0, (share - fade) / rate[r, False])
        images[r] = tuple(round(n / TOGETHER) * TOGETHER for n in counts)
    return images


def measure(name: str, given: dict, out: Path) -> None:
    """`hires evaluate` of the run; settings=detection.against=… says what its energy is to be told from."""
    measures = "swd,diversity,reconstruction,detection" if name in ENCODED else "swd,diversity,detection"
    hires("evaluate", f"run={out / name}", f"data={given['data']}", f"measure={measures}", *extra(given))


def table(runs: list[Path]) -> str:
    """What each run's budget and evaluation say, in two Markdown tables: samples, and AUROC of the scores that judge pictures."""
    rows = ["| system | images | seconds | swd ×1000, 32 / 16 / 8 px | its floor | diversity | RMSE |", "| --- " * 7 + "|"]
    told, sets = [], []
    for run in runs:
        budget = json.loads((run / "budget.json").read_text())
        found = sorted(run.glob("evaluation-*.json"))
        e = json.loads(found[-1].read_text()) if found else {}
        swd, floor = (" / ".join(f"{v:.0f}" for v in e.get(key, [])) for key in ("swd", "swd_floor"))
        rmse = f"{e['reconstruction_mse'] ** 0.5:.3f}" if "reconstruction_mse" in e else ""
        diversity = f"{e['diversity']:.2f}" if "diversity" in e else ""
        rows.append(f"| {run.name} | {budget['images']:,} | {budget['seconds']:.0f} | {swd} | {floor} | {diversity} | {rmse} |")
        for score in SCORES:
            own = f"detection_{score}_"
            areas = {key.removeprefix(own): value[0] for key, value in e.items() if key.startswith(own)}
            sets = sets or list(areas)
            if areas:
                told.append(f"| {run.name} | {score} | " + " | ".join(f"{areas[name][0]:.2f}" for name in sets) + " |")
    head = [f"| system | score | {' | '.join(sets)} |", "| --- " * (len(sets) + 2) + "|"]
    return "\n".join([*rows, "", *head, *told])


def picture(runs: list[Path], path: str) -> None:
    """Samples of the seeds 0 to 15, a row a run; of a transition operator, 20 transitions after decoded noise."""
    from matplotlib.figure import Figure
    import torch

    from hires.bundle import from_run
    from hires.evaluation.subject import of_networks

    figure = Figure(figsize=(12, 0.72 * len(runs)), dpi=100)
    axes = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axis, run in zip(axes, runs, strict=True):
        loaded = from_run.load(str(run))
        network = loaded.config.network
        size = loaded.resolution, network.image_channels, network.latent
        of = of_networks(loaded.networks, loaded.config.objective, run.name, loaded.images, size, loaded.alpha, torch.device("cpu"))
        with torch.no_grad():
            x = of.draw(list(range(16)))
            noise = torch.Generator().manual_seed(0)
            for _ in range(20 if of.transition else 0):
                x = of.transition(x, noise)
        row = torch.nn.functional.pad((x.clamp(-1, 1) + 1) / 2, (1, 1, 1, 1)).permute(2, 0, 3, 1).flatten(1, 2)
        axis.imshow(row.cpu().numpy())
        axis.set_ylabel(run.name.replace("f_", "f-").replace("_", "\n"), rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.1, right=0.998, top=0.998, bottom=0.002, hspace=0.04)
    figure.savefig(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
