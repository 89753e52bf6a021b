"""P2's table 4, anomalies on MNIST: each of the digits 1, 4, 5, 7, 9 left out, the latent EBM beside a VAE and the triangle.

    python experiments/p2_table4.py data=PLACE_OF_MNIST out=runs/claims                    # or digits=4 seeds=0 systems=vae; goes on
    python experiments/p2_table4.py show

All three train by `experiment=p2_mnist`, P2's recipe on networks of its layout, for as many pictures. The score is the energy of the
pair, the triangle's energy and minus the VAE's bound; the reconstruction is beside them, as are what the area is by chance and at worst:
they hang on the share of strange pictures, about 36 % here. The paper does not tell its own, and three of its VAE's numbers are below the
worst at this one. Usual pictures are held out from training. As in the paper an area is the mean over the last checkpoints. Nothing was
chosen by these numbers. A row is a run; rows that are there are skipped.
"""

from datetime import date
import json
from pathlib import Path
import platform
import statistics
import subprocess
import sys

LEFT_OUT = {4: 12635, 1: 12425, 5: 12737, 7: 12541, 9: 12608}  # digit -> a fifth of the pictures of the others
SYSTEMS = {
    "latent_ebm": ("objective=p2", "pair_energy"),
    "vae": ("objective=vae_published", "bound"),
    "triangle": ("objective=published", "energy"),
}
PAPER = {  # system -> digit -> area
    "vae": {1: 0.063, 4: 0.337, 5: 0.325, 7: 0.148, 9: 0.104},
    "latent_ebm": {1: 0.297, 4: 0.723, 5: 0.676, 7: 0.490, 9: 0.383},
}
SCALES = {  # width, images, images between checkpoints: five of which are averaged
    "cpu": (0.25, 60_000, 6_000),
    "gpu": (1.0, 5_000_000, 55_000),
}
AVERAGED = 5
ROWS = Path("docs/records/claims/p2_table4.jsonl")


def main(*words: str) -> None:
    """Train and measure what is missing, or `show` the table."""
    if words and words[0] == "show":
        print(table(rows()))
        return
    defaults = {"out": "runs/claims", "scale": "cpu", "digits": "4,1,5,7,9", "seeds": "0", "systems": ",".join(SYSTEMS), "pictures": "3000"}
    given = defaults | dict(word.split("=", 1) for word in words)
    width, images, every = SCALES[given["scale"]]
    todo = [
        (int(s), int(d), name)
        for s in given["seeds"].split(",")
        for d in given["digits"].split(",")
        for name in given["systems"].split(",")
    ]
    if given["scale"] == "gpu":
        print(f"{len(todo)} runs of {images:,} images at width {width}; see experiment=p2_mnist")
        return
    done = {(row["seed"], row["digit"], row["system"]) for row in rows()}
    for seed, digit, system in todo:
        if (seed, digit, system) in done:
            continue
        out = Path(given["out"]) / "p2_table4"
        data, run = out / f"data_without_{digit}", out / f"{system}_{digit}_{seed}"
        if not (data / "manifest.json").exists():
            split = [f"split.match=_{digit}$", f"split.holdout={LEFT_OUT[digit]}"]
            hires("prepare", f"path={given['data']}", f"out={data}", "resolution=28", "workers=1", *split)
        lengths = [
            f"train.max_images={images}",
            f"train.checkpoint_every={every}",
            f"train.keep={AVERAGED}",
            f"monitor.snapshot_every={images // 2}",
        ]
        settings = [SYSTEMS[system][0], "objective.kappa_pixel=1", f"network.width={width}", f"train.seed={seed}", "train.threads=1"]
        hires("train", "experiment=p2_mnist", f"data.root={data}", f"run={run}", "train.preflight=false", *lengths, *settings)
        row = measure(run, data, int(given["pictures"])) | {"seed": seed, "digit": digit, "system": system, "width": width}
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def hires(*arguments: str) -> None:
    """Run a verb."""
    subprocess.run([sys.executable, "-m", "hires", *arguments], check=True)


def measure(run: Path, data: Path, pictures: int) -> dict:
    """The row of a run: areas of its last checkpoints, on the leak-free split."""
    import torch

    from hires import evaluation
    from hires.bundle import from_run
    from hires.evaluation import anomaly, subject
    from hires.evaluation.material import Material
    from pipelines import Shards

    torch.set_num_threads(1)
    settings = evaluation.Settings()
    settings.anomaly.pictures = pictures
    areas: dict[str, list[float]] = {}
    found: dict = {}
    at = [images for images, _ in from_run.list_stable(str(run))][-AVERAGED:]
    for images in at:
        loaded = from_run.load(str(run), str(images))
        size = loaded.resolution, loaded.config.network.image_channels, loaded.config.network.latent
        of = subject.of_networks(loaded.networks, loaded.config.objective, run.name, images, size, 1.0, torch.device("cpu"))
        found = anomaly.measure(Material(of, Shards.open(str(data)), 100), settings)
        for key, value in found.items():
            if key.startswith("anomaly_leak_free_"):
                areas.setdefault(key.removeprefix("anomaly_leak_free_"), []).append(round(value[0], 4))
    told = json.loads((run / "environment.json").read_text())
    return {
        "images": at,
        "auprc": areas,
        "prevalence": round(found["anomaly_prevalence"], 4),
        "least": round(found["anomaly_least"], 4),
        "pictures": found["anomaly_pictures"].split(";")[0],
        "commit": told.get("commit", "")[:9],
        "machine": f"{platform.machine()}, one contended core",
        "date": date.today().isoformat(),
    }


def rows() -> list[dict]:
    """What was measured so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def table(found: list[dict]) -> str:
    """Markdown: a column for each digit left out; mean over checkpoints, then mean and deviation over seeds."""
    digits = sorted(LEFT_OUT)
    lines = [f"| left out | {' | '.join(map(str, digits))} |", "| --- " * (len(digits) + 1) + "|"]
    of = {digit: [row for row in found if row["digit"] == digit] for digit in digits}
    for name, key in (("by chance", "prevalence"), ("at worst", "least")):
        lines.append(f"| {name} | {' | '.join(f'{of[d][0][key]:.3f}' if of[d] else '' for d in digits)} |")
    scores = dict.fromkeys((row["system"], score) for row in found for score in row["auprc"])
    for system, score in scores:
        cells = []
        for digit in digits:
            means = [statistics.mean(row["auprc"][score]) for row in of[digit] if row["system"] == system]
            spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
            cells.append(f"{statistics.mean(means):.3f}{spread} ({len(means)})" if means else "")
        bold = "**" if SYSTEMS[system][1] == score else ""
        lines.append(f"| {bold}{system}, {score}{bold} | {' | '.join(cells)} |")
    for system, areas in PAPER.items():
        lines.append(f"| the paper's {system} | {' | '.join(f'{areas[d]:.3f}' for d in digits)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
