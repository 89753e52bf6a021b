"""What p1_table1.py and p2_table1.py share: a paper's system beside others on its networks, at equal updates and at equal time.

Each system is measured where its generator has made as many updates as the paper's, where it has trained as many seconds, and at its end.
Samples are judged by a Frechet distance in EfficientNet's features (no FID), reconstructions by their squared error over pixels, and by the
share whose own original is the nearest of all held-out pictures in these features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import sys

import claims

FRECHET, ERROR, FOUND = "frechet_efficientnet_lite0", "reconstruction_mse", "reconstruction_found_efficientnet_lite0"


@dataclass(frozen=True)
class Table:
    """A table of a paper: the first system is the paper's own, the one that others are compared with."""

    name: str
    title: str
    experiment: str
    pictures: str  # what is wanted as data=
    data: str  # the folder of shards beside the runs
    systems: dict[str, list[str]]  # overrides of the experiment
    paper: dict[str, tuple[float, float | None]]  # FID, error of reconstruction
    columns: tuple[str, str]  # what the paper's two numbers are
    scales: dict[str, tuple[float, int]]  # width, images of the first system
    batch: int
    lengths: dict[str, int] = field(default_factory=dict)  # times the first system's images, where more than one
    rounds: dict[str, int] = field(default_factory=dict)  # for an update of the generator, where more than one
    blind: tuple[str, ...] = ()  # have no inference model

    @property
    def first(self) -> str:
        """The paper's own system."""
        return next(iter(self.systems))

    def main(self, *words: str) -> None:
        """Compute what is missing, or `show`."""
        if claims.shows(self.name, self.text, words):
            return
        defaults = {"data": "", "out": "runs/claims", "scale": "cpu", "systems": ",".join(self.systems), "seeds": "0,1"}
        given = claims.given(words, **defaults, images="", precision="fp32")
        (width, images), precision = self.scales[given["scale"]], given["precision"]
        images, out = int(given["images"] or images), Path(given["out"]) / self.name
        if images % (5 * self.batch):
            sys.exit(f"images={images}: wanted a multiple of {5 * self.batch}, for a checkpoint every fifth")
        every = images // 5
        systems = given["systems"].split(",")
        for system in systems:
            if system not in self.systems:
                sys.exit(f"systems={system}: wanted {', '.join(self.systems)}")
        parts = [(int(seed), system) for seed in given["seeds"].split(",") for system in systems]
        progress = claims.Progress(len(parts))
        for seed, system in parts:
            run, data, most = _run(out, system, seed, precision), out / self.data, images * self.lengths.get(system, 1)
            lengths = [f"train.max_images={most}", f"train.checkpoint_every={every}", "train.keep=1000"]
            sizes = [f"network.width={width}", f"train.precision={precision}"]
            settings = [f"experiment={self.experiment}", *self.systems[system], *sizes, f"train.seed={seed}", *lengths]
            if given["scale"] == "gpu":
                print("hires train", *settings, f"schedule.levels.32.stable={most} run={run} data.root={data}")
                continue
            progress.next(f"{system}, seed {seed}")
            wanted = f"a folder, or an archive, of {self.pictures} with train/ and test/"
            claims.prepared(given["data"], data, "resolution=32", "split.prefix=test/", wanted=wanted)
            claims.hires("train", *settings, f"run={run}", f"data.root={data}", "train.threads=1", "train.trial=false")
            for at in self.compared(run, _run(out, self.first, seed, precision), system, images, every):
                part = {"seed": seed, "system": system, "width": width, "images": at, "precision": precision}
                if not claims.there(self.name, **part):
                    names = ("fidelity", "diversity") if system in self.blind else ("fidelity", "diversity", "reconstruction")
                    found = claims.measured(run, data, *names, images=str(at))
                    claims.add(self.name, part | found | {"seconds": claims.seconds(run, at)} | claims.where(run))
        if given["scale"] != "gpu":
            claims.publish(self.name, self.text())

    def compared(self, run: Path, first: Path, system: str, images: int, every: int) -> list[int]:
        """Checkpoints of a run to measure, in images: after the first system's updates of G, at the end, and the last in its seconds."""
        most = images * self.lengths.get(system, 1)
        at = {images * self.rounds.get(system, 1), most}
        if (first / "metrics.jsonl").exists():
            spent = claims.seconds(first, images)
            at |= {max((n for n in range(every, most + 1, every) if claims.seconds(run, n) <= spent), default=most)}
        return sorted(at)

    def text(self) -> str:
        """The claim's part of the page."""
        rows = claims.rows(self.name)
        ends = {row["seed"]: row for row in sorted(rows, key=lambda row: row["images"]) if row["system"] == self.first}
        equal = {
            "equal updates": lambda row: row["images"] / self.rounds.get(row["system"], 1),
            "equal time": lambda row: row["seconds"],
        }

        def chosen(system: str, spent: Callable[[dict], float]) -> list[dict]:
            """A row a seed: the last that spent no more than the first system's last."""
            found = []
            for seed, end in ends.items():
                own = [row for row in rows if (row["system"], row["seed"], row["precision"]) == (system, seed, end["precision"])]
                own = [row for row in own if spent(row) <= spent(end)]
                found += [max(own, key=lambda row: row["images"])] if own else []
            return found

        lines, orders = [], []
        for told, spent in equal.items():
            of = {system: chosen(system, spent) for system in self.systems}
            for system, (fid, error) in self.paper.items():
                own = of[system]
                cells = [claims.shown([row[FRECHET] for row in own], digits=1), claims.shown([row["diversity"] for row in own])]
                cells += [claims.shown([row[key] for row in own if key in row], digits=4) for key in (ERROR, FOUND)]
                lines.append([system, told, f"{fid:.2f}", error or "", *cells])
            for other, key, what in self._orders():
                better = -1 if key == FOUND else 1  # the share is the better the higher
                said = claims.verdict(*([better * row[key] for row in of[system] if key in row] for system in (self.first, other)))
                orders.append([f"{self.first} before {other}, {what}", told, said])
        head = ["", "", *self.columns, "Fréchet (EfficientNet)", "diversity", "squared error", "found again"]
        floors = sorted({round(row[f"{FRECHET}_floor"], 1) for row in rows if f"{FRECHET}_floor" in row})
        told = "width {width:g}, {precision}, {images:,} images, {seconds} s"
        sizes = sorted({told.format(**row) for row in ends.values()})
        return "\n\n".join(
            [
                self.title,
                claims.table(head, lines),
                f"{self.first}: {'; '.join(sizes)}. Real against real: {', '.join(map(str, floors))}.",
                claims.table(["order", "", "verdict"], orders),
                claims.made(rows),
            ]
        )

    def _orders(self) -> Sequence[tuple[str, str, str]]:
        """(another system, a number, what it is of) of each comparison."""
        others = [system for system in self.systems if system != self.first]
        seeing = [system for system in others if system not in self.blind]
        of_pictures = [(system, key, what) for system in seeing for key, what in ((ERROR, "reconstruction"), (FOUND, "found again"))]
        return [*((system, FRECHET, "samples") for system in others), *of_pictures]


def _run(out: Path, system: str, seed: int, precision: str) -> Path:
    return out / (f"{system}_{seed}" + f"_{precision}" * (precision != "fp32"))
