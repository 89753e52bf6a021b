"""P1's tables 1 and 2: the triangle beside a GAN, a WGAN and a VAE on the same networks, at equal updates and at equal time.

    python experiments/p1_table1.py data=CELEBA out=runs/claims                  # all of it; the same command goes on
    python experiments/p1_table1.py data=CELEBA systems=gan,wgan seeds=0         # parts of it
    python experiments/p1_table1.py data=CELEBA images=120000 precision=bf16     # shorter, on a CPU with fast bf16
    python experiments/p1_table1.py show                                         # into docs/records/claims.md
    python experiments/p1_table1.py scale=gpu                                    # the paper's own size, as commands

The triangle trains by experiment=triangle_cifar10, the published networks and recipe; the VAE on its G and I, all but the WGAN by its Adam;
the GAN on its G and energy, this with batch norm as DCGAN's, at DCGAN's rates; the WGAN on both by WGAN-GP's published settings, a step of
G every fifth round. GAN and VAE train for twice as many images, the WGAN for five times, so that each is measured where its G has made as
many updates, where it has trained as many seconds, and at its end. Samples are judged by a Frechet distance in EfficientNet's features (no
FID), reconstructions by their squared error over pixels, and by the share whose own original is the nearest of all held-out pictures in
these features. The paper's other baselines are not built here.
"""

from collections.abc import Callable
from pathlib import Path
import sys

import claims

NAME = "p1_table1"
SYSTEMS = {
    "triangle": ["objective=published"],
    "gan": ["objective=gan_published", "schedule.levels.32.lr=2e-4", "schedule.energy_lr=1"],
    "wgan": [
        *("objective=wgan_published", "schedule.levels.32.lr=1e-4", "schedule.energy_lr=1", "schedule.decay_factor=1"),
        *("optimizer.beta1=0", "optimizer.beta2=0.9", "optimizer.weight_decay.generator=0"),
    ],
    "vae": ["objective=vae_published"],
}
LENGTHS = {"triangle": 1, "gan": 2, "wgan": 5, "vae": 2}  # times the triangle's images
ROUNDS = {"wgan": 5}  # for an update of the generator, where they are more than one
PAPER = {"triangle": (31.92, 0.030), "gan": (38.39, None), "wgan": (36.36, None), "vae": (99.09, 0.039)}  # FID, error; CelebA at 64x64
SCALES = {"cpu": (0.25, 50_000), "gpu": (1.0, 75_000_000)}  # width, images
BATCH = 100  # of experiment=triangle_cifar10
FRECHET, ERROR, FOUND = "frechet_efficientnet_lite0", "reconstruction_mse", "reconstruction_found_efficientnet_lite0"


def main(*words: str) -> None:
    """Compute what is missing, or `show`."""
    if claims.shows(NAME, text, words):
        return
    defaults = {"data": "", "out": "runs/claims", "scale": "cpu", "systems": ",".join(SYSTEMS), "seeds": "0,1"}
    given = claims.given(words, **defaults, images="", precision="fp32")
    (width, images), precision = SCALES[given["scale"]], given["precision"]
    images, out = int(given["images"] or images), Path(given["out"]) / NAME
    if images % (5 * BATCH):
        sys.exit(f"images={images}: wanted a multiple of {5 * BATCH}, for a checkpoint every fifth")
    every = images // 5
    systems = given["systems"].split(",")
    for system in systems:
        if system not in SYSTEMS:
            sys.exit(f"systems={system}: wanted {', '.join(SYSTEMS)}")
    parts = [(int(seed), system) for seed in given["seeds"].split(",") for system in systems]
    progress = claims.Progress(len(parts))
    for seed, system in parts:
        run, data, most = _run(out, system, seed, precision), out / "faces", images * LENGTHS[system]
        lengths = [f"train.max_images={most}", f"train.checkpoint_every={every}", "train.keep=1000"]
        sizes = [f"network.width={width}", f"train.precision={precision}"]
        settings = ["experiment=triangle_cifar10", *SYSTEMS[system], *sizes, f"train.seed={seed}", *lengths]
        if given["scale"] == "gpu":
            print("hires train", *settings, f"schedule.levels.32.stable={most} run={run} data.root={data}")
            continue
        progress.next(f"{system}, seed {seed}")
        wanted = "a folder, or an archive, of pictures with train/ and test/"
        claims.prepared(given["data"], data, "resolution=32", "split.prefix=test/", wanted=wanted)
        claims.hires("train", *settings, f"run={run}", f"data.root={data}", "train.threads=1", "train.trial=false")
        for at in compared(run, _run(out, "triangle", seed, precision), system, images, every):
            part = {"seed": seed, "system": system, "width": width, "images": at, "precision": precision}
            if not claims.there(NAME, **part):
                names = ("fidelity", "diversity") if system in ("gan", "wgan") else ("fidelity", "diversity", "reconstruction")
                found = claims.measured(run, data, *names, images=str(at))
                claims.add(NAME, part | found | {"seconds": claims.seconds(run, at)} | claims.where(run))
    if given["scale"] != "gpu":
        claims.publish(NAME, text())


def _run(out: Path, system: str, seed: int, precision: str) -> Path:
    return out / (f"{system}_{seed}" + f"_{precision}" * (precision != "fp32"))


def compared(run: Path, triangle: Path, system: str, images: int, every: int) -> list[int]:
    """Checkpoints of a run to measure, in images: after the triangle's updates of G, at the end, and the last in the triangle's seconds."""
    most = images * LENGTHS[system]
    at = {images * ROUNDS.get(system, 1), most}
    if (triangle / "metrics.jsonl").exists():
        spent = claims.seconds(triangle, images)
        at |= {max((n for n in range(every, most + 1, every) if claims.seconds(run, n) <= spent), default=most)}
    return sorted(at)


def text() -> str:
    """The claim's part of the page."""
    rows = claims.rows(NAME)
    ends = {row["seed"]: row for row in sorted(rows, key=lambda row: row["images"]) if row["system"] == "triangle"}
    equal = {
        "equal updates": lambda row: row["images"] / ROUNDS.get(row["system"], 1),
        "equal time": lambda row: row["seconds"],
    }

    def chosen(system: str, spent: Callable[[dict], float]) -> list[dict]:
        """A row a seed: the last that spent no more than the triangle's last."""
        found = []
        for seed, end in ends.items():
            own = [row for row in rows if (row["system"], row["seed"], row["precision"]) == (system, seed, end["precision"])]
            own = [row for row in own if spent(row) <= spent(end)]
            found += [max(own, key=lambda row: row["images"])] if own else []
        return found

    lines, orders = [], []
    for told, spent in equal.items():
        of = {system: chosen(system, spent) for system in SYSTEMS}
        for system, (fid, error) in PAPER.items():
            own = of[system]
            cells = [claims.shown([row[FRECHET] for row in own], digits=1), claims.shown([row["diversity"] for row in own])]
            cells += [claims.shown([row[key] for row in own if key in row], digits=4) for key in (ERROR, FOUND)]
            lines.append([system, told, f"{fid:.2f}", error or "", *cells])
        given_back = ("vae", ERROR, "reconstruction"), ("vae", FOUND, "reconstruction found again")
        for other, key, what in (*((one, FRECHET, "samples") for one in ("wgan", "gan", "vae")), *given_back):
            better = -1 if key == FOUND else 1  # the share is the better the higher
            said = claims.verdict(*([better * row[key] for row in of[system] if key in row] for system in ("triangle", other)))
            orders.append([f"triangle before {other}, {what}", told, said])
    head = ["", "", "paper, FID, CelebA 64", "paper, error", "Fréchet (EfficientNet)", "diversity", "error", "found again"]
    floors = sorted({round(row[f"{FRECHET}_floor"], 1) for row in rows if f"{FRECHET}_floor" in row})
    sizes = "; ".join(
        sorted({f"width {row['width']:g}, {row['precision']}, {row['images']:,} images, {row['seconds']} s" for row in ends.values()})
    )
    return "\n\n".join(
        [
            "### P1, tables 1 and 2: samples and reconstructions beside a GAN, a WGAN and a VAE",
            claims.table(head, lines),
            f"The triangle: {sizes}. Real against real: {', '.join(map(str, floors))}.",
            claims.table(["order", "", "verdict"], orders),
            claims.made(rows),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
