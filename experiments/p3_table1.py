"""P3's table 1: what a discriminator has learned of classes, GAN and VGAN, one or three generator steps a round, by a linear probe.

    python experiments/p3_table1.py data=PLACE out=runs/claims                       # all of it; the same command goes on
    python experiments/p3_table1.py out=runs/claims systems=controls                 # untrained networks and pixels alone: minutes
    python experiments/p3_table1.py out=runs/claims systems=vgan steps=1 seeds=0     # parts of it
    python experiments/p3_table1.py show                                             # what is there, into docs/records/claims.md
    python experiments/p3_table1.py scale=gpu                                        # the paper's own size, as commands

`data` is CIFAR-10's batches, or a folder of pictures named train/NUMBER_LABEL and test/NUMBER_LABEL. Networks and losses are the published
ones (experiment=p3_vgan_cifar10); the GAN has no term that holds its scores. Adadelta's rate is the 0.1 of the published code (VCD's); 1
was tried first, docs/records/claims.md says what came of it. The probe reads the layer below the experts, from the first `labels` training
pictures, with each feature scaled by its deviation and raw, after a quarter and half of the images too. The controls are the same network
as it starts, by seed, and the pixels: what convolutions tell without having learned anything. Systems are compared at equal rounds, so k =
3 has three times the generator steps. The L2 penalty is chosen on a sixth of the training pictures.
"""

from pathlib import Path
import sys

import claims

NAME = "p3_table1"
PAPER = {("gan", 1): 84.7, ("gan", 3): 86.6, ("vgan", 1): 36.5, ("vgan", 3): 32.5}
# what is to be before what
CLAIMED = [(("vgan", 1), ("gan", 1)), (("vgan", 3), ("gan", 3)), (("vgan", 3), ("vgan", 1)), (("vgan", 1), ("untrained", None))]
SCALES = {"cpu": (0.5, 400_000, 0.1, 10_000), "gpu": (1.0, 5_000_000, 0.1, 0)}  # width, images, rate, labels of the probe (0: all)
TEST = 10_000
BATCH = 100  # of experiment=p3_vgan_cifar10


def main(*words: str) -> None:
    """Compute what is missing, or `show`."""
    if claims.shows(NAME, text, words):
        return
    defaults = {"data": "", "out": "runs/claims", "scale": "cpu", "systems": "controls,vgan,gan", "steps": "1,3", "seeds": "0,1,2"}
    given = claims.given(words, **defaults, images="", width="", labels="", rate="", precision="fp32")
    width, images, rate, labels = SCALES[given["scale"]]
    width, images, labels = float(given["width"] or width), int(given["images"] or images), int(given["labels"] or labels)
    rate, precision = float(given["rate"] or rate), given["precision"]
    if images % (4 * BATCH):
        sys.exit(f"images={images}: wanted a multiple of {4 * BATCH}, for a checkpoint every quarter")
    out, data = Path(given["out"]) / NAME, Path(given["out"]) / NAME / "cifar32"
    systems, steps, seeds = (given[key].split(",") for key in ("systems", "steps", "seeds"))
    if unknown := set(systems) - {"controls", "vgan", "gan"}:
        sys.exit(f"systems={unknown.pop()}: wanted controls, vgan, gan")
    parts = [(system, int(k), int(seed)) for seed in seeds for system in systems if system != "controls" for k in steps]
    if given["scale"] == "gpu":
        for part in parts:
            print("hires train", *_settings(*part, width, images, rate), f"run={_run(out, *part, rate)} data.root={data}")
            print(f"hires evaluate run={_run(out, *part, rate)} data={data} measure=probe images={TEST}")
        return
    claims.prepared(given["data"], data, "resolution=32", "split.prefix=test/", wanted="CIFAR-10")
    sizes = {"width": width, "labels": labels}
    progress = claims.Progress(len(parts) + ("controls" in systems) * (1 + len(seeds)))
    if "controls" in systems:
        progress.next("pixels")
        if not claims.there(NAME, part="pixels", labels=labels):
            claims.add(NAME, {"part": "pixels", "labels": labels} | probed(lambda x: x.flatten(1), data, labels) | claims.where())
        for seed in map(int, seeds):
            progress.next(f"untrained, seed {seed}")
            part = {"part": "untrained", "seed": seed} | sizes
            if not claims.there(NAME, **part):
                claims.add(NAME, part | probed(untrained(width, seed), data, labels) | claims.where())
    for system, k, seed in parts:
        progress.next(f"{system}, k = {k}, seed {seed}")
        run, lengths = _run(out, system, k, seed, rate), [images // 4, images // 2, images]
        parts = [{"part": system, "k": k, "seed": seed, "images": at, "rate": rate} | sizes for at in lengths]
        if missing := [part for part in parts if not claims.there(NAME, **part)]:
            own = [f"data.root={data}", f"run={run}", "train.threads=1", f"train.precision={precision}", "train.keep=1000"]
            claims.hires("train", *_settings(system, k, seed, width, images, rate), *own, f"train.checkpoint_every={lengths[0]}")
            for part in missing:
                found = probed(claims.subject(run, str(part["images"])).features, data, labels)
                claims.add(NAME, part | {"precision": precision} | found | claims.where(run))
    claims.publish(NAME, text())


def _run(out: Path, system: str, k: int, seed: int, rate: float) -> Path:
    return out / f"{system}_{k}_{seed}_{rate:g}"


def _settings(system: str, k: int, seed: int, width: float, images: int, rate: float) -> list[str]:
    own = [f"objective={system}_published", f"objective.generator_steps={k}", f"train.seed={seed}", f"network.width={width}"]
    return ["experiment=p3_vgan_cifar10", *own, f"schedule.levels.32.stable={images}", f"schedule.levels.32.lr={rate}"]


def untrained(width: float, seed: int):
    """The features of the energy as it starts, of a seed: images (N, 3, 32, 32) in [-1, 1] -> (N, F)."""
    from hires import config
    from hires.training.game import build_network

    words = [*_settings("vgan", 1, seed, width, 1000, 1.0), "run=none", "data.root=none"]
    network = build_network(config.load("train", words), "energy", 32, False).eval()
    return lambda x: network.features(x).flatten(1)


def probed(features, data: Path, labels: int) -> dict:
    """Errors of the probe on a function of images, in %, with scaled features and raw ones."""
    import torch

    from hires.evaluation.probe import linear_probe
    from hires.ground.labels import labels_of
    from pipelines import Loader, Shards

    torch.set_num_threads(1)
    shards, sets = Shards.open(str(data)), []
    for split, most in (("train", labels), ("holdout", TEST)):
        keys = shards.keys(split)[: most or None]
        rows = torch.arange(len(keys)).split(500)
        with torch.no_grad():
            loader = Loader(shards, 32, split, 0.0)
            seen = [features(loader.read(part.numpy()).float().contiguous() / 127.5 - 1).float() for part in rows]
        sets += [torch.cat(seen), labels_of(keys, str(data))]
    found = {"features": sets[0].shape[1]}
    for name, scaled in (("error", True), ("raw_error", False)):
        probe = linear_probe(*sets, scaled)
        found |= {name: round(100 * probe.error, 2), name.replace("error", "l2"): probe.strength}
    return found


def text() -> str:
    """The claim's part of the page."""
    rows = claims.rows(NAME)

    def errors(part: str, k: int | None, key: str, how: tuple[float, int] | None) -> list[float]:
        """Of all seeds, by Adadelta's rate and the images where it has been trained."""
        own = [row for row in rows if (row["part"], row.get("k")) == (part, k)]
        return [row[key] for row in own if k is None or (row["rate"], row["images"]) == how]

    names = {("pixels", None): "pixels", ("untrained", None): "the energy as it starts"}
    names |= {(system, k): f"{system.upper()}, k = {k}" for system, k in PAPER}
    ways, lines, orders = sorted({(row["rate"], row["images"]) for row in rows if "rate" in row}), [], []
    for one, name in names.items():
        for how in ways if one in PAPER else [None]:
            shown = [claims.shown(errors(*one, key, how), digits=1) for key in ("error", "raw_error")]
            if any(shown):
                told = [f"{how[0]:g}", f"{how[1] // 1000} k"] if how else ["", ""]
                lines.append([name, *told, PAPER.get(one, ""), *shown])
    for how in ways:
        for better, worse in CLAIMED:
            said = [claims.verdict(errors(*better, key, how), errors(*worse, key, how)) for key in ("error", "raw_error")]
            if said != ["open", "open"]:
                orders.append([f"{names[better]} before {names[worse]}", f"{how[0]:g}", f"{how[1] // 1000} k", *said])
    sizes = sorted({f"width {row['width']}, {row['precision']}" for row in rows if "images" in row})
    sizes += sorted({f"probes of {row['labels'] or 'all'} labels on {row['features']} features" for row in rows})
    return "\n\n".join(
        [
            "### P3, table 1: a linear probe of the discriminator, CIFAR-10",
            claims.table(["", "Adadelta's rate", "images", "paper, error %", "scaled features, error % (seeds)", "raw features"], lines),
            f"{'; '.join(sizes)}.",
            claims.table(["order", "rate", "images", "scaled", "raw"], orders),
            claims.made(rows),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
