"""P2's table 4, anomalies on MNIST: each of the digits 1, 4, 5, 7, 9 left out, the latent EBM beside a VAE and the triangle.

    python experiments/p2_table4.py data=PLACE_OF_MNIST out=runs/claims                    # all of it; the same command goes on
    python experiments/p2_table4.py data=PLACE_OF_MNIST digits=4 systems=latent_ebm images=180000        # a part, or a run taken further
    python experiments/p2_table4.py show                                                   # what is there, into docs/records/claims.md
    python experiments/p2_table4.py scale=gpu                                              # the paper's own size, as commands

All three train by experiment=p2_mnist, P2's recipe on networks of its layout, for as many pictures. The score is the energy of the pair,
the triangle's energy and minus the VAE's bound; the reconstruction is beside them, as are what the area is by chance and at worst: they
hang on the share of strange pictures, about 36 % here. The paper does not tell its own, and three of its VAE's numbers are below the
worst at this one. Usual pictures are held out from training. As in the paper an area is the mean over the last checkpoints. Nothing was
chosen by these numbers.
"""

from pathlib import Path
import statistics
import sys

import claims

NAME = "p2_table4"
LEFT_OUT = {4: 12635, 1: 12425, 5: 12737, 7: 12541, 9: 12608}  # digit -> a fifth of the pictures of the others
SYSTEMS = {"latent_ebm": ("p2", "pair_energy"), "vae": ("vae_published", "bound"), "triangle": ("published", "energy")}
PAPER = {
    "vae": {1: 0.063, 4: 0.337, 5: 0.325, 7: 0.148, 9: 0.104},
    "latent_ebm": {1: 0.297, 4: 0.723, 5: 0.676, 7: 0.490, 9: 0.383},
}
SCALES = {"cpu": (0.25, 60_000, 6_000), "gpu": (1.0, 5_000_000, 55_000)}  # width, images, images between checkpoints
AVERAGED = 5  # checkpoints


def main(*words: str) -> None:
    """Compute what is missing, or `show`."""
    if claims.shows(NAME, text, words):
        return
    wide = {"digits": ",".join(map(str, LEFT_OUT)), "systems": ",".join(SYSTEMS), "seeds": "0,1,2"}
    given = claims.given(words, data="", out="runs/claims", scale="cpu", images="", pictures="3000", **wide)
    width, images, every = SCALES[given["scale"]]
    images, out = int(given["images"] or images), Path(given["out"]) / NAME
    digits, systems, seeds = (given[key].split(",") for key in ("digits", "systems", "seeds"))
    for name, value, known in [("digits", d, map(str, LEFT_OUT)) for d in digits] + [("systems", s, SYSTEMS) for s in systems]:
        if value not in known:
            sys.exit(f"{name}={value}: wanted {', '.join(map(str, LEFT_OUT if name == 'digits' else SYSTEMS))}")
    parts = [(int(seed), int(digit), system) for seed in seeds for digit in digits for system in systems]
    progress = claims.Progress(len(parts))
    for seed, digit, system in parts:
        run, data = out / f"{system}_{digit}_{seed}", out / f"data_without_{digit}"
        settings = _settings(system, seed, width, images, every)
        if given["scale"] == "gpu":
            print("hires train", *settings, f"run={run} data.root={data}")
            continue
        progress.next(f"{system} without {digit}, seed {seed}")
        part = {"seed": seed, "digit": digit, "system": system, "width": width, "until": images}
        if claims.there(NAME, **part):
            continue
        split = ["resolution=28", f"split.match=_{digit}$", f"split.holdout={LEFT_OUT[digit]}"]
        claims.prepared(given["data"], data, *split, wanted="the files of MNIST")
        claims.hires("train", *settings, f"run={run}", f"data.root={data}", "train.threads=1", "train.trial=false")
        claims.add(NAME, part | measure(run, data, int(given["pictures"])) | claims.where(run))
    if given["scale"] != "gpu":
        claims.publish(NAME, text())


def _settings(system: str, seed: int, width: float, images: int, every: int) -> list[str]:
    lengths = [f"train.max_images={images}", f"train.checkpoint_every={every}", f"train.keep={AVERAGED}"]
    return ["experiment=p2_mnist", f"objective={SYSTEMS[system][0]}", f"network.width={width}", f"train.seed={seed}", *lengths]


def measure(run: Path, data: Path, pictures: int) -> dict:
    """Areas of a run's last checkpoints on held-out pictures, by score."""
    import torch

    from hires import evaluation
    from hires.bundle.from_run import list_stable
    from hires.evaluation import anomaly
    from hires.evaluation.material import Material
    from pipelines import Shards

    torch.set_num_threads(1)
    settings = evaluation.Settings()
    settings.anomaly.pictures = pictures
    at, found, areas = [images for images, _ in list_stable(str(run))][-AVERAGED:], {}, {}
    for images in at:
        found = anomaly.measure(Material(claims.subject(run, str(images)), Shards.open(str(data)), 100), settings)
        for key, value in found.items():
            if key.startswith("anomaly_leak_free_"):
                areas.setdefault(key.removeprefix("anomaly_leak_free_"), []).append(round(value[0], 4))
    shares = {name: round(found[f"anomaly_{name}"], 4) for name in ("prevalence", "least")}
    return {"images": at, "auprc": areas, **shares, "pictures": found["anomaly_pictures"].split(";")[0]}


def text() -> str:
    """The claim's part of the page."""
    rows, digits = claims.rows(NAME), sorted(LEFT_OUT)
    of = {digit: [row for row in rows if row["digit"] == digit] for digit in digits}

    def areas(digit: int, system: str, score: str, until: int) -> list[float]:
        found = [row for row in of[digit] if (row["system"], row["until"]) == (system, until)]
        return [statistics.mean(row["auprc"][score]) for row in found]

    lines = [[f"paper: {system}", "", *(f"{PAPER[system][d]:.3f}" for d in digits)] for system in PAPER]
    for name, key in (("by chance", "prevalence"), ("at worst", "least")):
        lines.append([name, "", *(f"{of[d][0][key]:.3f}" if of[d] else "" for d in digits)])
    orders = []
    for until in sorted({row["until"] for row in rows}):
        kinds = sorted({(list(SYSTEMS).index(row["system"]), row["system"], score) for row in rows for score in row["auprc"]})
        for _, system, score in kinds:
            cells = [claims.shown(areas(d, system, score, until), digits=3) for d in digits]
            if any(cells):
                bold = "**" * (SYSTEMS[system][1] == score)
                lines.append([f"{bold}{system}, {score}{bold}", f"{until // 1000} k", *cells])
        minus = {s: {d: [-a for a in areas(d, s, SYSTEMS[s][1], until)] for d in digits} for s in SYSTEMS}
        for other in ("vae", "triangle"):
            cells = [claims.verdict(minus["latent_ebm"][d], minus[other][d]) for d in digits]
            orders.append([f"latent EBM before {other}", f"{until // 1000} k", *cells])
    sizes = "; ".join(sorted({f"width {row['width']:g}, {row['pictures']}" for row in rows}))
    means = f"Mean over the last {AVERAGED} checkpoints, then ± deviation over seeds and (seeds); bold is each system's score"
    return "\n\n".join(
        [
            "### P2, table 4: anomalies on MNIST by the digit left out, AUPRC",
            claims.table(["", "images", *digits], lines),
            f"{means}. {sizes} pictures.",
            claims.table(["order", "images", *digits], orders),
            claims.made(rows),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
