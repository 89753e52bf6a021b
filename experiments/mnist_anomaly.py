"""Anomaly detection on MNIST (P2, table 4): each of the digits 1, 4, 5, 7, 9 left out, the latent EBM and a VAE trained the same way.

    python experiments/mnist_anomaly.py prepare mnist=PLACE out=anomaly          # five data sets
    python experiments/mnist_anomaly.py run out=anomaly seeds=0,1,2              # trains and measures; or digits=4,9 systems=vae
    python experiments/mnist_anomaly.py show out=anomaly                         # the table of what is there, in markdown

Each step is `hires` commands alone (docs/reference/detection.md) and goes on where it was left. `pictures=0` measures on all held-out ones.
"""

from itertools import product
import json
from pathlib import Path
import statistics
import subprocess
import sys

LEFT_OUT = {1: 12425, 4: 12635, 5: 12737, 7: 12541, 9: 12608}  # digit -> a fifth of the pictures of the others
AREAS = (("AUPRC", 0, "leak_free"), ("AUPRC as published", 0, "published"), ("AUROC", 2, "leak_free"))
SYSTEMS = {"latent_ebm": ["objective=latent_ebm"], "vae": ["objective=vae"]}


def main(action: str, *settings: str) -> None:
    """`prepare`, `run` or `show`, with key=value behind it."""
    defaults = {"digits": ",".join(map(str, LEFT_OUT)), "seeds": "0,1,2", "systems": ",".join(SYSTEMS), "pictures": "4000"}
    given = defaults | dict(setting.split("=", 1) for setting in settings)
    out, digits = Path(given["out"]), [int(digit) for digit in given["digits"].split(",")]
    if action == "show":
        print(table(out))
    elif action == "prepare":
        for digit in digits:
            split = [f"split.match=_{digit}$", f"split.holdout={LEFT_OUT[digit]}"]
            hires("prepare", f"path={given['mnist']}", f"out={data(out, digit)}", "resolution=16", *split)
    else:
        for seed, digit, system in product(given["seeds"].split(","), digits, given["systems"].split(",")):
            folder, pictures = out / f"{system}_{digit}_{seed}", data(out, digit)
            if not list(folder.glob("evaluation-*.json")):
                settings = [*SYSTEMS[system], f"data.root={pictures}", f"train.seed={seed}"]
                hires("train", "experiment=mnist_anomaly", f"run={folder}", *settings)
                hires("evaluate", f"run={folder}", f"data={pictures}", "measure=anomaly", f"anomaly.pictures={given['pictures']}")


def data(out: Path, digit: int) -> Path:
    """The data set without a digit."""
    return out / f"data_without_{digit}"


def hires(*arguments: str) -> None:
    """Run a verb."""
    subprocess.run([sys.executable, "-m", "hires", *arguments], check=True)


def table(out: Path) -> str:
    """Markdown: a row for each area, system and score, a column for each digit left out, mean and deviation over seeds."""
    found = {digit: {} for digit in LEFT_OUT}  # (split, system, score) -> [(area, precision, auroc)] over seeds
    told: dict[int, dict] = {}
    for path in sorted(out.glob("*/evaluation-*.json")):
        system, digit, _ = path.parent.name.rsplit("_", 2)
        record = told[int(digit)] = json.loads(path.read_text())
        for key, value in record.items():
            for split in ("leak_free", "published"):
                if key.startswith(f"anomaly_{split}_"):
                    found[int(digit)].setdefault((split, system, key.removeprefix(f"anomaly_{split}_")), []).append(value)
    lines = [f"| left out | {' | '.join(map(str, LEFT_OUT))} | mean |", "| --- " * (len(LEFT_OUT) + 2) + "|"]
    for key, name in (("anomaly_prevalence", "prevalence: AUPRC by chance"), ("anomaly_least", "least AUPRC there can be")):
        values = [f"{told[digit][key]:.3f}" if digit in told else "" for digit in LEFT_OUT]
        lines.append(f"| {name} | {' | '.join(values)} | |")
    for name, column, split in AREAS:
        for system, score in dict.fromkeys((key[1], key[2]) for of in found.values() for key in of):
            of = [[value[column] for value in found[digit].get((split, system, score), [])] for digit in LEFT_OUT]
            mean = f"{statistics.mean(statistics.mean(values) for values in of):.3f}" if all(of) else ""
            lines.append(f"| {name}: {system}, {score} | {' | '.join(map(spread, of))} | {mean} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± deviation over seeds."""
    if not values:
        return ""
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
