"""P4's table 2: f-EBM's divergences beside contrastive divergence, without class labels, on CelebA at 32x32 or any pictures.

    python experiments/p4_table2.py data=CELEBA out=runs/claims                        # all of it; the same command goes on
    python experiments/p4_table2.py data=CELEBA divergences=jensen_shannon,cd seeds=0  # parts of it
    python experiments/p4_table2.py data=CELEBA images=24000 precision=bf16            # shorter, on a CPU with fast bf16
    python experiments/p4_table2.py show                                               # into docs/records/claims.md
    python experiments/p4_table2.py scale=gpu                                          # the paper's own size, as commands

Trains experiment=p4_cifar10, the published network, chains and data noise, for equal rounds. Near the optimum a divergence's loss is as
large as f''(1), 1/2 for Jensen-Shannon and squared Hellinger as P4 writes them and 1 for the KLs, so the L2 weights are f''(1) here:
published are 1 for all, lambda=published. Samples are chains from uniform noise, as long as a chain of the buffer lives on average,
judged by a Frechet distance in EfficientNet's features (no FID), the sliced Wasserstein distance and their spread. Table 1, with labels, is
experiment=p4_cifar10_classes.
"""

from pathlib import Path
import sys

import claims

NAME = "p4_table2"
PAPER = {  # FID on CIFAR-10 with labels, on CelebA at 32x32 without
    "cd": (37.90, 35.97),
    "kl": (37.36, 37.41),
    "reverse_kl": (33.25, 26.75),
    "squared_hellinger": (32.19, 23.67),
    "jensen_shannon": (30.86, 26.53),
}
CURVATURE = {"jensen_shannon": 0.5, "squared_hellinger": 0.5}  # f''(1)
# width, Langevin steps, pictures in the buffer, batch, images, samples
SCALES = {"cpu": (0.125, 40, 1000, 32, 80_000, 1000), "gpu": (1.0, 60, 10_000, 512, 23_500_000, 50_000)}


def main(*words: str) -> None:
    """Compute what is missing, or `show`."""
    if claims.shows(NAME, text, words):
        return
    more = {"divergences": ",".join(PAPER), "seeds": "0,1", "images": "", "lambda": "equal", "precision": "fp32"}
    given = claims.given(words, data="", out="runs/claims", scale="cpu", **more)
    precision = given["precision"]
    width, steps, replay, batch, images, samples = SCALES[given["scale"]]
    images, out = int(given["images"] or images), Path(given["out"]) / NAME
    names = given["divergences"].split(",")
    for name in names:
        if name not in PAPER:
            sys.exit(f"divergences={name}: wanted {', '.join(PAPER)}")
    parts = [(int(seed), name) for seed in given["seeds"].split(",") for name in names]
    progress = claims.Progress(len(parts))
    for seed, name in parts:
        run = out / (f"{name}_{given['lambda']}_{seed}" + f"_{precision}" * (precision != "fp32"))
        data, weight = out / "faces", CURVATURE.get(name, 1.0)
        own = [f"objective.lambda_u={weight}", f"objective.lambda_h={weight}"] if given["lambda"] == "equal" else []
        of = ["objective=contrastive_divergence_p4"] if name == "cd" else ["objective=p4", f"objective.divergence={name}", *own]
        level = [f"schedule.levels.32.{key}" for key in (f"batch={batch}", f"micro_batch={min(batch, 128)}", f"stable={images}")]
        chains = [f"objective.chains.steps={steps}", f"objective.chains.replay={replay}"]
        sizes = [f"network.width={width}", f"train.precision={precision}"]
        settings = ["experiment=p4_cifar10", *of, *sizes, f"train.seed={seed}", *level, *chains]
        if given["scale"] == "gpu":
            print("hires train", *settings, f"run={run} data.root={data}")
            continue
        progress.next(f"{name}, seed {seed}")
        part = {"seed": seed, "divergence": name, "weights": given["lambda"], "width": width, "images": images, "precision": precision}
        if not claims.there(NAME, **part):
            wanted = "a folder, or an archive, of pictures with train/ and test/"
            claims.prepared(given["data"], data, "resolution=32", "split.prefix=test/", wanted=wanted)
            save = [f"train.checkpoint_every={max(batch, images // 8)}", "train.threads=1", "train.trial=false"]
            claims.hires("train", *settings, *save, f"run={run}", f"data.root={data}")
            found = claims.measured(run, data, "fidelity", "swd", "diversity", count=samples)
            claims.add(NAME, part | found | claims.where(run))
    if given["scale"] != "gpu":
        claims.publish(NAME, text())


def text() -> str:
    """The claim's part of the page."""
    rows = claims.rows(NAME)
    keys = ("frechet_efficientnet_lite0", "diversity")

    def values(name: str, weights: str, key: str) -> list[float]:
        return [row[key] for row in rows if row["divergence"] == name and row["weights"] == weights and key in row]

    lines, orders = [], []
    for weights in sorted({row["weights"] for row in rows}):
        for name, (labelled, faces) in PAPER.items():
            cells = [claims.shown(values(name, weights, key)) for key in keys]
            lines.append([name, weights, f"{labelled:.2f}", f"{faces:.2f}", *cells])
        cd = values("cd", weights, keys[0])
        orders += [[f"{name} before cd", weights, claims.verdict(values(name, weights, keys[0]), cd)] for name in PAPER if name != "cd"]
    floors = sorted({round(row[f"{keys[0]}_floor"], 2) for row in rows if f"{keys[0]}_floor" in row})
    sizes = "; ".join(sorted({f"width {row['width']:g}, {row['precision']}, {row['images']:,} images" for row in rows}))
    head = ["", "L2 weights", "paper, FID, CIFAR-10 with labels", "paper, FID, CelebA 32", "ours, Fréchet (EfficientNet)", "diversity"]
    return "\n\n".join(
        [
            "### P4, table 2: divergences beside contrastive divergence",
            claims.table(head, lines),
            f"{sizes}. Real against real: {', '.join(map(str, floors))}.",
            claims.table(["order", "L2 weights", "verdict"], orders),
            claims.made(rows),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
