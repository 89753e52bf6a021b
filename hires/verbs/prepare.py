"""`hires prepare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hires.errors import HiresError
from hires.ground.showing import progress
from hires.verbs import Result
from pipelines import PrepareConfig as Config
from pipelines import prepare


@dataclass(frozen=True)
class Prepared(Result):
    """Prepared data, and its report: status, pictures by split, skipped ones."""

    out: Path
    report: dict[str, Any]


def run(config: Config) -> Prepared:
    """Make the pyramid of shards, with a progress bar; tells what was made and what was skipped."""
    if not config.out:
        raise HiresError("out=… not given: the folder to write")
    with progress(f"prepare {config.out}") as show:
        report = prepare(config, lambda done, total: show(done, total, "" if total else f"list {config.path}"))
    print(f"{config.out}: {report['status']}", *(f"{key} {value}" for key, value in report.items() if type(value) is int), sep=", ")
    if "compared" in report:
        print(f"compared with {config.path or config.source}: {report['compared']}")
    if left_out := report.get("left_out"):
        counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(left_out.items()))
        print(f"skipped, not pictures: {counts}")
    if report.get("shard_in_key"):
        print("keys repeat from shard to shard: each begins with its shard's name")
    return Prepared(Path(config.out), report)
