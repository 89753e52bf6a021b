"""What the claims' scripts share (p1_*.py … p4_*.py): settings of a command line, verbs of hires, rows and the page of claims.

A claim `name` trains under OUT/name, where the same command goes on, and appends each finished part at once, a JSON line with commit,
machine and date, to docs/records/claims/name.jsonl: parts that are there are not computed again. `publish` writes its table into
docs/records/claims.md, between two comments with its name.
"""

from collections.abc import Callable, Sequence
from datetime import date
import json
from pathlib import Path
import platform
import statistics
import subprocess
import sys
import time

ROOT = Path(__file__).parents[1]
ROWS, PAGE = ROOT / "docs/records/claims", ROOT / "docs/records/claims.md"


def shows(name: str, text: Callable[[], str], words: Sequence[str]) -> bool:
    """Whether the command line says `show`: then the claim's text goes into the page of claims and is printed."""
    if list(words[:1]) != ["show"]:
        return False
    publish(name, text())
    print(text())
    return True


def given(words: Sequence[str], **defaults: str) -> dict[str, str]:
    """Settings key=value over the defaults; ends the program, in a line, for an unknown one."""
    found = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in defaults:
            sys.exit(f"{word}: wanted {', '.join(f'{name}=…' for name in defaults)}")
        found[key] = value
    return found


def hires(*arguments: str) -> None:
    """Run a verb as the command line does; ends the program where it fails."""
    if code := subprocess.run([sys.executable, "-m", "hires", *arguments], check=False).returncode:
        sys.exit(code)


def prepared(place: str, out: Path, *settings: str, wanted: str) -> Path:
    """The shards `out`, made of the pictures at `place` where they are not there yet; ends the program, in a line, where neither is.

    `wanted`: what the pictures are, such as 'the files of MNIST'.
    """
    if not (out / "manifest.json").exists():
        if not place or not Path(place).exists():
            sys.exit(f"data={place}: not there; wanted {wanted}, for hires prepare path={place or '…'} out={out} {' '.join(settings)}")
        hires("prepare", f"path={place}", f"out={out}", *settings)
    return out


def subject(run: Path, images: str = ""):
    """What hires.evaluation measures of a run, on the CPU: its newest checkpoint, or that at so many images."""
    import torch

    from hires.bundle import from_run
    from hires.evaluation.subject import of_networks

    loaded = from_run.load(str(run), images)
    network = loaded.config.network
    size = loaded.resolution, network.image_channels, network.latent
    return of_networks(loaded.networks, loaded.config.objective, run.name, loaded.images, size, loaded.alpha, torch.device("cpu"))


def measured(
    run: Path, data: Path, *names: str, images: str = "", count: int = 1000, against: str = "uniform,constant"
) -> dict[str, float]:
    """Numbers of hires.evaluation's measures of a run: at most `count` samples and held-out pictures, in EfficientNet's features.

    Of detection, the AUROC; `against` is its detection.against.
    """
    import torch

    from hires import evaluation
    from hires.evaluation.material import Material
    from pipelines import Shards

    torch.set_num_threads(1)
    settings = evaluation.Settings(images=count)
    settings.metrics.features = "efficientnet"
    settings.reconstruction.features, settings.detection.against = True, against
    material, found = Material(subject(run, images), Shards.open(str(data)), count), {}
    for name in names:
        for key, value in evaluation.MEASURES[name].measure(material, settings).items():
            if name == "detection" and isinstance(value, list):
                value = value[0][0]  # of rates with their intervals
            if isinstance(value, float):
                found[key] = round(value, 5)
    return found


def seconds(run: Path, images: int) -> int:
    """How long a run took to see so many images, by its log: on a shared machine a rough number."""
    before, total = 0, 0.0
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "seconds_per_kimg" in record and before < record["images"] <= images:
            total += record["seconds_per_kimg"] * (record["images"] - before) / 1000
            before = record["images"]
    return round(total)


def where(run: Path | None = None) -> dict[str, str]:
    """Commit (that a run was trained at, where it is given), machine and date of a row."""
    path = run / "environment.json" if run else None
    commit = json.loads(path.read_text()).get("commit", "") if path and path.exists() else ""
    if not commit:
        told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
        commit = told.stdout.strip()
    return {"commit": commit[:9], "machine": processor(), "date": date.today().isoformat()}


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def made(rows: Sequence[dict]) -> str:
    """Where rows were computed: 'commit · machine · date; ….'"""
    return "; ".join(" · ".join(one) for one in sorted({(row["commit"], row["machine"], row["date"]) for row in rows})) + "."


def rows(name: str) -> list[dict]:
    """The finished parts of a claim."""
    path = ROWS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def there(name: str, **part: object) -> dict | None:
    """The row whose values are those of `part`, or None."""
    return next((row for row in rows(name) if all(row.get(key) == value for key, value in part.items())), None)


def add(name: str, row: dict) -> None:
    """Append a finished part, and print it."""
    ROWS.mkdir(parents=True, exist_ok=True)
    with (ROWS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(json.dumps(row, ensure_ascii=False), flush=True)


class Progress:
    """Lines that say how many of the parts are done and how long the rest takes, at the pace of those done here."""

    def __init__(self, parts: int):
        self.parts, self.done, self.started = parts, 0, time.monotonic()

    def next(self, what: str) -> None:
        """Say that `what` begins."""
        left = (time.monotonic() - self.started) / self.done * (self.parts - self.done) if self.done else 0
        print(f"part {self.done + 1} of {self.parts}: {what}" + (f", {left / 60:.0f} min left" if left else ""), flush=True)
        self.done += 1


def shown(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """Mean and deviation over seeds, such as 2.80 ± 0.10 (3); empty for none."""
    if not values:
        return ""
    spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{spread} ({len(values)})"


def verdict(better: Sequence[float], worse: Sequence[float]) -> str:
    """Whether values of several seeds that a paper has the lower are: 'holds', 'does not hold', 'within the spread', or 'open'."""
    if not better or not worse:
        return "open"
    if max(better) < min(worse):
        return "holds" if min(len(better), len(worse)) > 1 else "open, one seed for it"
    if min(better) > max(worse):
        return "does not hold" if min(len(better), len(worse)) > 1 else "open, one seed against it"
    return "within the spread"


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *lines))


def publish(name: str, text: str, page_at: Path | None = None) -> None:
    """Put a claim's text between its two comments in the page of claims, or another page, at the end where it has none."""
    path = page_at or PAGE
    first, last = f"<!-- {name}: written by experiments/{name}.py -->", f"<!-- end of {name} -->"
    page = path.read_text() if path.exists() else "# The papers' claims\n"
    part = f"{first}\n\n{text.strip()}\n\n{last}"
    if first not in page:
        page = f"{page.rstrip()}\n\n{first}{last}\n"
    path.write_text(page[: page.index(first)] + part + page[page.index(last) + len(last) :])
