"""P2's table 3: CIFAR-10's test pictures against other pictures by the energy of the pair U(x, mu(x)), AUROC along training.

    python experiments/p2_table3.py data=CIFAR10 textures=DTD faces=CELEBA out=runs/claims       # the same command goes on
    python experiments/p2_table3.py show                                                         # into docs/records/claims.md
    python experiments/p2_table3.py scale=gpu                                                    # the paper's own size, as commands

Trains experiment=p2_cifar10 and measures every checkpoint, so that a number of one moment is not taken for the recipe's. CIFAR10 holds the
folders train/ and test/; textures and faces may be left out. Controls: the training pictures (0.5 where nothing is learned by heart),
pictures of one colour, and the samples' finest band over the data's: an energy that has never seen noise in samples need not know it.
"""

from pathlib import Path
import sys

import claims

NAME = "p2_table3"
PAPER = {"uniform": 1.0, "textures": 0.56, "faces": 0.56}
NAMES = {"uniform": "uniform noise", "constant": "one colour", "textures": "textures", "faces": "faces", "train": "training pictures"}
SCALES = {"cpu": (0.25, 300_000, 25_000), "gpu": (1.0, 40_000_000, 1_000_000)}  # width, images, images between checkpoints
PICTURES = 1000  # of a set


def main(*words: str) -> None:
    """Compute what is missing, or `show`."""
    if claims.shows(NAME, text, words):
        return
    given = claims.given(words, data="", textures="", faces="", out="runs/claims", scale="cpu", seeds="0,1", images="")
    width, images, every = SCALES[given["scale"]]
    images, out = int(given["images"] or images), Path(given["out"]) / NAME
    for seed in map(int, given["seeds"].split(",")):
        run, data = out / f"latent_ebm_{seed}", out / "cifar10"
        lengths = [f"train.max_images={images}", f"train.checkpoint_every={every}", "train.keep=1000"]
        settings = ["experiment=p2_cifar10", f"network.width={width}", f"train.seed={seed}", *lengths]
        if given["scale"] == "gpu":
            print("hires train", *settings, f"run={run} data.root={data}")
            continue
        wanted = "a folder, or an archive, of CIFAR-10 with train/ and test/"
        claims.prepared(given["data"], data, "resolution=32", "split.prefix=test/", wanted=wanted)
        against = ["uniform", "constant", *(f"{name}:{given[name]}" for name in ("textures", "faces") if given[name])]
        for part in against[2:]:
            if not Path(part.split(":", 1)[1]).exists():
                sys.exit(f"{part.replace(':', '=', 1)}: not there; wanted a folder of pictures, or leave it out")
        claims.hires("train", *settings, f"run={run}", f"data.root={data}", "train.threads=1", "train.trial=false")
        checkpoints = range(every, images + 1, every)
        progress = claims.Progress(len(checkpoints))
        for at in checkpoints:
            progress.next(f"seed {seed} at {at:,} images")
            part = {"seed": seed, "width": width, "images": at}
            if not claims.there(NAME, **part):
                claims.add(NAME, part | measure(run, data, at, ",".join(against)) | claims.where(run))
    if given["scale"] != "gpu":
        claims.publish(NAME, text())


def measure(run: Path, data: Path, images: int, against: str) -> dict:
    """AUROC of each set by the pair's energy (strange pictures have the higher one), and the samples' finest band over the data's."""
    import torch

    from hires.evaluation import outliers
    from hires.evaluation.detection import places, strange_sets
    from hires.evaluation.material import Material
    from hires.evaluation.swd import band_statistics
    from pipelines import Shards

    torch.set_num_threads(1)
    material = Material(claims.subject(run, str(images)), Shards.open(str(data)), PICTURES)
    real = material.held_out()

    def energies(x: torch.Tensor):
        with torch.no_grad():
            return torch.cat([material.subject.energy(part) for part in x.split(material.at_once)]).double().numpy()

    usual = energies(real)
    areas = {name: round(outliers.rates(usual, energies(x))[0], 4) for name, x, _ in strange_sets(material, places(against), PICTURES)}
    bands = band_statistics(material.samples(), real).ratios[0]
    return {"auroc": areas, "finest": round(bands[1], 3), "energy": round(float(usual.mean()), 3)}


def text() -> str:
    """The claim's part of the page."""
    rows = sorted(claims.rows(NAME), key=lambda row: (row["images"], row["seed"]))
    there = [name for name in NAMES if any(name in row["auroc"] for row in rows)]
    lines = [["paper", *(f"{PAPER[name]:.2f}" if name in PAPER else "" for name in there), "", ""]]
    for images in dict.fromkeys(row["images"] for row in rows):
        here = [row for row in rows if row["images"] == images]
        cells = [" / ".join(f"{row['auroc'][name]:.2f}" for row in here if name in row["auroc"]) for name in there]
        more = [" / ".join(f"{row[key]:.2f}" for row in here) for key in ("finest", "energy")]
        lines.append([f"{images // 1000} k images", *cells, *more])
    last = [row for row in rows if row["images"] == max(row["images"] for row in rows)] if rows else []
    noise = [row["auroc"]["uniform"] for row in last]
    said = "open" if not noise else "holds" if min(noise) > 0.99 else "does not hold at this length"
    finest = "The finest band is the samples' median over the data's"
    widths = ", ".join(sorted({f"{row['width']:g}" for row in rows}))
    return "\n\n".join(
        [
            "### P2, table 3: CIFAR-10 against other pictures by the energy, AUROC along training",
            claims.table(["", *(NAMES[name] for name in there), "samples' finest band", "U of test pictures"], lines),
            f"Seeds beside each other; {PICTURES} pictures of a set; width {widths}. {finest}.",
            f"Uniform noise is told apart perfectly: {said}.",
            claims.made(rows),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
