"""P3's table 2 on MNIST: does a classifier of 1,000 labels gain from VCD's transitions, and between which rho?

    python experiments/p3_table2.py data=PLACE_OF_MNIST out=runs/claims               # all of it; the same command goes on
    python experiments/p3_table2.py out=runs/claims rho=0.01,none seeds=1             # parts of it
    python experiments/p3_table2.py show                                              # what is there, into docs/records/claims.md
    python experiments/p3_table2.py scale=gpu                                         # the paper's own size, as commands

Operators are trained first, by experiment=p3_vcd_mnist: the published networks, losses and optimizer. An oracle, a classifier of all 60,000
labelled training pictures, then says how many of the 10,000 test pictures keep their label in a transition and in a plain reconstruction:
what keeps no label cannot help. Classifiers come last, one of each rho a seed, each with its own start, order and noise, the same for every
rho; the test error is the one at the epoch that the next 1,000 training pictures choose. Nothing was chosen by the test pictures.
"""

from collections.abc import Callable
import math
from pathlib import Path
import statistics
import sys

import claims

from hires.training.schedule import parse_images

NAME = "p3_table2"
RHOS = ("none", "0.01", "0", "1", "0.1", "0.001")
PAPER = {"none": 2.2, "0": 2.9, "0.001": 2.0, "0.01": 1.7, "0.1": 1.9, "1": 21.0}
LABELS, ORACLE, ORACLE_EPOCHS = 1000, 16, 2
FIGURE = """![pictures, and for three ρ a reconstruction and two transitions](../images/p3_transitions.png)

*First row: test pictures. Below, for ρ = 0, 0.01 and 1 from the top: reconstructions, and two transitions of each. An autoencoder alone
(0) breaks its pictures, the energy alone (1) makes fine digits of any other kind, 0.01 changes the style and keeps the digit: the paper's
figures 3 and 4.*

![chains of ρ = 0.01](../images/p3_chains.png)

*Chains of ρ = 0.01 after 360,000 images, every fourth of 40 transitions, from test pictures: digits change smoothly into others, the
paper's figure 5 (`RUN/samples/chains-*.png`).*"""
FINE = ("0.001", "0.01", "0.1")
# width and images of the operators, Adadelta's rate, width and epochs of the classifiers
SCALES = {"cpu": (0.5, "120k", 1.0, 32, 40), "gpu": (1.0, "5M", 0.1, 64, 200)}


def main(*words: str) -> None:
    """Compute what is missing, or `show`."""
    if claims.shows(NAME, text, words):
        return
    given = claims.given(words, data="", out="runs/claims", scale="cpu", rho=",".join(RHOS), seeds="0,1,2", images="", epochs="")
    width, images, rate, channels, epochs = SCALES[given["scale"]]
    images, epochs = given["images"] or images, int(given["epochs"] or epochs)
    out, rhos, seeds = Path(given["out"]) / NAME, given["rho"].split(","), [int(seed) for seed in given["seeds"].split(",")]
    for rho in rhos:
        if rho not in RHOS:
            sys.exit(f"rho={rho}: wanted {', '.join(RHOS)}")
    operators = [rho for rho in rhos if rho != "none"]
    if given["scale"] == "gpu":
        for rho in operators:
            print("hires train", *_settings(rho, width, images, rate), f"run={out}/rho_{rho} data.root={out}/mnist28")
            print(f"hires evaluate run={out}/rho_{rho} data={out}/mnist28 measure=augmentation images=10000")
        return
    data = claims.prepared(given["data"], out / "mnist28", "resolution=28", "split.prefix=test/", wanted="the files of MNIST")
    progress = claims.Progress(len(operators) + len(rhos) * len(seeds))
    for rho in operators:
        progress.next(f"operator of ρ = {rho}")
        run, part = out / f"rho_{rho}", {"part": "operator", "rho": rho, "width": width, "operator_images": images}
        if not claims.there(NAME, **part):
            if not (run / "checkpoints" / f"images-{parse_images(images):012d}").exists():
                claims.hires("train", *_settings(rho, width, images, rate), f"data.root={data}", f"run={run}", "train.threads=1")
            claims.add(NAME, part | labels_kept(run, images, data, out) | claims.where(run))
    for seed in seeds:
        for rho in rhos:
            progress.next(f"classifier of ρ = {rho}, seed {seed}")
            part = {"part": "classifier", "rho": rho, "seed": seed, "channels": channels, "epochs": epochs}
            part |= {"operator_images": images} if rho != "none" else {}
            if not claims.there(NAME, **part):
                move = claims.subject(out / f"rho_{rho}", images).transition if rho != "none" else None
                claims.add(NAME, part | classified(move, data, seed, channels, epochs) | claims.where())
    claims.publish(NAME, text())


def _settings(rho: str, width: float, images: str, rate: float) -> list[str]:
    own = [f"schedule.levels.28.stable={images}", f"schedule.levels.28.lr={rate}", f"objective.rho={rho}"]
    return ["experiment=p3_vcd_mnist", f"network.width={width}", *own]


def _sets(data: Path) -> list[tuple]:
    """Labelled, validation and test pictures (N, 1, 28, 28) in [-1, 1] with their labels (N,)."""
    import torch

    from hires.ground.labels import labels_of
    from pipelines import Loader, Shards

    torch.set_num_threads(1)
    shards, sets = Shards.open(str(data)), []
    for split, first, count in (("train", 0, LABELS), ("train", LABELS, LABELS), ("holdout", 0, shards.count("holdout"))):
        rows = range(first, first + count)
        x = Loader(shards, 28, split, 0.0).read(torch.tensor(rows).numpy()).float().contiguous() / 127.5 - 1
        sets.append((x, labels_of(shards.keys(split)[first : first + count], str(data))))
    return sets


def labels_kept(run: Path, images: str, data: Path, out: Path) -> dict:
    """What the oracle says of an operator; the oracle is trained once and kept in `out`."""
    from safetensors.torch import load_file, save_file
    import torch

    from hires.evaluation.augmentation import kept
    from hires.evaluation.classifier import Classifier, Labelled, train
    from hires.ground.images import save_grid
    from hires.ground.labels import labels_of
    from pipelines import Loader, Shards

    *_, (x, y) = _sets(data)
    path = out / f"oracle-{ORACLE}.safetensors"
    if not path.exists():
        shards = Shards.open(str(data))
        pixels = Loader(shards, 28, "train", 0.0).read(torch.arange(shards.count("train")).numpy()).contiguous()
        every = Labelled(pixels, labels_of(shards.keys("train"), str(data)))
        state = train(every, 10, ORACLE_EPOCHS, torch.device("cpu"), width=ORACLE).state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    oracle = Classifier(1, 10, ORACLE)
    oracle.load_state_dict(load_file(path))
    one = claims.subject(run, images)
    with torch.no_grad():
        rows = [x[:100], one.reproduce(x[:100]), *(one.transition(x[:100], torch.Generator().manual_seed(i)) for i in range(4))]
    save_grid(torch.stack([row[:12] for row in rows], 0).flatten(0, 1), run / "transitions.png", 12)
    found = kept(oracle.eval(), one, x, y)
    return {name: round(value, 4) for name, value in found.items()}


def classified(transition: Callable | None, data: Path, seed: int, channels: int, epochs: int) -> dict:
    """The errors, in %, of a classifier of 1,000 pictures, and of their transitions where there is an operator."""
    from hires.evaluation.augmentation import classify

    found = classify(*_sets(data), transition, epochs, channels, seed)
    return {"error": round(100 * found.error, 3), "validation": round(100 * found.validation, 3), "epoch": found.epoch}


def text() -> str:
    """The claim's part of the page: rows of the CPU's size, and what operators of other lengths keep."""
    width, images, _, channels, epochs = SCALES["cpu"]
    every = claims.rows(NAME)
    others = [row for row in every if row["part"] == "operator" and row["operator_images"] != images]
    rows = [row for row in every if row.get("operator_images", images) == images and row.get("epochs", epochs) == epochs]
    errors = {rho: [row["error"] for row in rows if row["part"] == "classifier" and row["rho"] == rho] for rho in RHOS}
    lines = []
    for rho in ("none", "0", "0.001", "0.01", "0.1", "1"):
        one = next((row for row in reversed(rows) if row["part"] == "operator" and row["rho"] == rho), {})
        shares = [f"{100 * one[name]:.1f} %" if name in one else "" for name in ("kept_by_transitions", "kept_by_reconstructions")]
        which = "no augmentation" if rho == "none" else f"ρ = {rho}"
        lines.append([which, f"{PAPER[rho]:.1f}", claims.shown(errors[rho]), *shares])
    longer = {(row["rho"], row["operator_images"]) for row in every if row["part"] == "classifier" and "operator_images" in row}
    for rho, length in sorted(pair for pair in longer if pair[1] != images):
        own = [row for row in every if (row["rho"], row.get("operator_images")) == (rho, length)]
        errors[f"{rho} after {length}"] = [row["error"] for row in own if row["part"] == "classifier" and row["epochs"] == epochs]
        one = next(row for row in own if row["part"] == "operator")
        shares = [f"{100 * one[name]:.1f} %" for name in ("kept_by_transitions", "kept_by_reconstructions")]
        lines.append([f"ρ = {rho}, {length} images", f"{PAPER[rho]:.1f}", claims.shown(errors[f"{rho} after {length}"]), *shares])
    any_ = next((row for row in rows if row["part"] == "operator"), None)
    said = [f"chance {100 * any_['kept_by_chance']:.0f} %, the pictures themselves {100 * any_['oracle_accuracy']:.1f} %"] if any_ else []
    orders = [[f"ρ = {rho} before none", claims.verdict(errors[rho], errors["none"])] for rho in FINE]
    orders += [[f"ρ = {rho} images before none", claims.verdict(errors[rho], errors["none"])] for rho in errors if "after" in rho]
    orders += [[f"none before ρ = {rho}", claims.verdict(errors["none"], errors[rho])] for rho in ("0", "1")]
    also = [f"{100 * row['kept_by_transitions']:.1f} % after {row['operator_images']} images of ρ = {row['rho']}" for row in others]
    error = statistics.mean(errors["none"]) / 100 if errors["none"] else 0.03
    spread = 100 * math.sqrt(error * (1 - error) / 10_000)
    sizes = f"Operators of {images} images at width {width}, classifiers of {channels} channels and {epochs} epochs"
    return "\n\n".join(
        [
            "### P3, table 2: transitions as augmentation, MNIST with 1,000 labels",
            claims.table(["", "paper, error %", "ours, error % (seeds)", "label kept by transitions", "by reconstructions"], lines),
            f"Kept labels are an oracle's ({'; '.join(said)}{'; ' * bool(also)}{', '.join(also)}). {sizes}. "
            f"Deviations are over seeds; 10,000 test pictures, the same for all, leave ± {spread:.2f} beside them.",
            FIGURE,
            claims.table(["order", "verdict"], orders),
            claims.made(rows),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
