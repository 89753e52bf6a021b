"""Ten systems side by side at 32x32, each by its own recipe, at equal updates and at equal time, judged alike.

    python experiments/compare_systems.py data=CELEBA out=runs/claims                # all of it; the same command goes on
    python experiments/compare_systems.py data=CELEBA systems=vgan,gan seeds=0       # parts of it
    python experiments/compare_systems.py data=CELEBA textures=DTD cifar=CIFAR       # more pictures for the energies to tell apart
    python experiments/compare_systems.py show out=runs/claims picture=systems.png   # into docs/records/systems.md; samples, a row each

Every system trains experiment=compare_32, the same small growing networks and batch, for the same rounds; then once more for as many
images as take it the triangle's seconds, all phases stretched alike. Weights, chains and the energy's rate are its own. Samples are judged
by a Frechet distance in EfficientNet's features (no FID) and by their spread; reconstructions by their squared error and by the share whose
own original is the nearest of all held-out pictures; energies by what they tell from held-out pictures.
"""

import itertools
from pathlib import Path
import statistics
import sys

import claims

NAME, PAGE = "compare_systems", claims.ROOT / "docs/records/systems.md"
TRIANGLE = "triangle"
BUFFER = "objective.chains.replay=1000"  # of 10,000, each would be taken out but four times in 44,000 images
SYSTEMS = {
    TRIANGLE: ["objective=divergence_triangle"],
    "bounded": ["objective=bounded"],
    "latent_ebm": ["objective=latent_ebm"],
    "vae": ["objective=vae"],
    "vgan": ["objective=vgan", "schedule.energy_lr=1"],
    "gan": ["objective=gan"],
    "vcd": ["objective=vcd", "objective.generator_steps=2", "schedule.energy_lr=0.5"],  # docs/records/vgan.md
    "f_ebm": ["objective=f_ebm", "schedule.energy_lr=1", BUFFER],
    "f_ebm_generator": ["objective=f_ebm", "schedule.energy_lr=1", "objective.sampler=generator"],
    "contrastive_divergence": ["objective=contrastive_divergence", "schedule.energy_lr=1", BUFFER],
}
LEVELS = {4: (0, 8000), 8: (4000, 6000), 16: (4000, 8000), 32: (4000, 10_000)}  # images (fading, stable) at equal updates
DECAY, BATCH = 4000, 16
COUNT = 500  # samples and held-out pictures: a chain of 400 Langevin steps takes half a second
FRECHET, ERROR, FOUND = "frechet_efficientnet_lite0", "reconstruction_mse", "reconstruction_found_efficientnet_lite0"
SCORES = ("energy", "pair_energy", "reconstruction")  # of measure=detection


def main(*words: str) -> None:
    """Compute what is missing, or `show`."""
    shows = list(words[:1]) == ["show"]
    defaults = {"data": "", "out": "runs/claims", "systems": ",".join(SYSTEMS), "seeds": "0,1,2", "precision": "auto"}
    given = claims.given(words[shows:], **defaults, textures="", cifar="", picture="")
    out, systems = Path(given["out"]) / NAME, given["systems"].split(",")
    for system in systems:
        if system not in SYSTEMS:
            sys.exit(f"systems={system}: wanted {', '.join(SYSTEMS)}")
    if shows:
        claims.publish(NAME, text(), PAGE)
        print(text())
        if given["picture"]:
            picture([run for system in SYSTEMS if (run := out / f"{system}_updates_0").exists()], given["picture"])
        return
    sets = {name: given[name] for name in ("textures", "cifar") if given[name]}
    for name, place in sets.items():
        if not Path(place).exists():
            sys.exit(f"{name}={place}: not there; wanted a folder of pictures, or leave it out")
    against = ",".join(["uniform", "constant", *(f"{name}:{place}" for name, place in sets.items())])
    parts = [(int(seed), system, equal) for seed in given["seeds"].split(",") for system in systems for equal in ("updates", "time")]
    parts = [part for part in parts if part[1:] != (TRIANGLE, "time")]
    progress = claims.Progress(len(parts))
    for seed, system, equal in parts:
        progress.next(f"{system}, equal {equal}, seed {seed}")
        part = {"seed": seed, "system": system, "equal": equal}
        if claims.there(NAME, **part):
            continue
        stretch = 1.0
        if equal == "time":
            first, own = (claims.there(NAME, seed=seed, system=one, equal="updates") for one in (TRIANGLE, system))
            if not first or not own:
                sys.exit(f"{system}, seed {seed}: equal time wants the triangle's and its own run of equal updates first")
            stretch = first["seconds"] / own["seconds"]
        lengths, images = stretched(stretch)
        data, run = out / "faces", out / f"{system}_{equal}_{seed}"
        wanted = "a folder, or an archive, of pictures with train/ and test/"
        claims.prepared(given["data"], data, "resolution=32", "split.prefix=test/", wanted=wanted)
        settings = [*SYSTEMS[system], *lengths, f"train.seed={seed}", f"train.precision={given['precision']}", "train.trial=false"]
        claims.hires("train", "experiment=compare_32", *settings, f"run={run}", f"data.root={data}")
        found = claims.measured(run, data, "fidelity", "diversity", *encoded(system), count=COUNT)
        if equal == "updates" and system != "vae":
            found |= claims.measured(run, data, "detection", count=COUNT, against=against)
        claims.add(NAME, part | {"images": images} | found | {"seconds": claims.seconds(run, images)} | claims.where(run))
    claims.publish(NAME, text(), PAGE)


def encoded(system: str) -> tuple[str, ...]:
    """The measure of a system that has an inference model, beside its samples."""
    return ("reconstruction",) if system in ("triangle", "bounded", "latent_ebm", "vae", "vcd") else ()


def stretched(factor: float) -> tuple[list[str], int]:
    """Overrides that make every phase `factor` times as long, in whole rounds, and the images of all."""

    def images(count: int) -> int:
        return round(count * factor / BATCH) * BATCH

    levels = {r: (images(fade), images(stable)) for r, (fade, stable) in LEVELS.items()}
    told = [f"schedule.levels.{r}.{name}={n}" for r, pair in levels.items() for name, n in zip(("fade", "stable"), pair, strict=True)]
    return [*told, f"schedule.decay={images(DECAY)}"], sum(map(sum, levels.values()))


def text() -> str:
    """The tables of the rows that are there."""
    rows = claims.rows(NAME)
    lines, orders = [], []
    for equal in ("updates", "time"):
        of: dict[str, list[dict]] = {system: [] for system in SYSTEMS}
        for row in rows:
            if row["equal"] == equal or row["system"] == TRIANGLE:
                of[row["system"]].append(row)
        means = {system: statistics.mean(row[FRECHET] for row in own) for system, own in of.items() if own}
        best = sorted(means, key=means.__getitem__)
        for system in best:
            own = of[system]
            images = sorted({row["images"] for row in own})
            cells = [f"{images[0] / 1000:.0f} k" if len(images) == 1 else f"{images[0] / 1000:.0f}–{images[-1] / 1000:.0f} k"]
            cells += [claims.shown([row["seconds"] for row in own], digits=0), claims.shown([row[FRECHET] for row in own], digits=1)]
            cells += [claims.shown([row["diversity"] for row in own])]
            cells += [claims.shown([row[key] for row in own if key in row], digits=digits) for key, digits in ((ERROR, 4), (FOUND, 3))]
            lines.append([system, f"equal {equal}", *cells])
        for better, worse in itertools.pairwise(best):
            said = claims.verdict(*([row[FRECHET] for row in of[system]] for system in (better, worse)))
            orders.append([f"{better} before {worse}", f"equal {equal}", said])
    sets = sorted({key.rsplit("_", 1)[1] for row in rows for key in row if key.startswith("detection_")})
    told = []
    for system in SYSTEMS:
        for score in SCORES:
            own = [row for row in rows if row["system"] == system and f"detection_{score}_uniform" in row]
            if own:
                told.append([system, score, *(claims.shown([row[f"detection_{score}_{name}"] for row in own]) for name in sets)])
    floors = sorted({round(row[f"{FRECHET}_floor"], 1) for row in rows})
    head = ["system", "", "images", "seconds", "Fréchet (EfficientNet)", "diversity", "error", "found again"]
    return "\n\n".join([
        claims.table(head, lines),
        f"Mean ± deviation over seeds, and (seeds); real against real: {' and '.join(map(str, floors))}.",
        claims.table(["order of samples", "", "verdict"], orders),
        "AUROC of held-out faces against other pictures (training faces should be .5), at equal updates:",
        claims.table(["system", "score", *sets], told),
        claims.made(rows),
    ])  # fmt: skip


def picture(runs: list[Path], path: str) -> None:
    """Samples of the seeds 0 to 15, a row a run; of a transition operator, 20 transitions after decoded noise."""
    from matplotlib.figure import Figure
    import torch

    figure = Figure(figsize=(12, 0.72 * len(runs)), dpi=100)
    axes = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
    for axis, run in zip(axes, runs, strict=True):
        of = claims.subject(run)
        with torch.no_grad():
            x = of.draw(list(range(16)))
            noise = torch.Generator().manual_seed(0)
            for _ in range(20 if of.transition else 0):
                x = of.transition(x, noise)
        row = torch.nn.functional.pad((x.clamp(-1, 1) + 1) / 2, (1, 1, 1, 1)).permute(2, 0, 3, 1).flatten(1, 2)
        axis.imshow(row.cpu().numpy())
        name = run.name.removesuffix("_updates_0").replace("f_", "f-").replace("_", "\n")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.subplots_adjust(left=0.1, right=0.998, top=0.998, bottom=0.002, hspace=0.04)
    figure.savefig(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
