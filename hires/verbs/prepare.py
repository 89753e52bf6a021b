"""`hires prepare`."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hires.errors import HiresError
from pipelines import PrepareConfig, prepare


def run(config: PrepareConfig) -> int:
    """Make the pyramid of shards, with a progress bar; tells what was made and what was skipped."""
    if not config.out:
        raise HiresError("out=… not given: the folder to write")
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # No thread that refreshes: processes are forked meanwhile. A file, which is no terminal, gets the errors alone.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"list {config.path}", total=None)

        def show(done: int, total: int | None) -> None:
            what = f"prepare {config.out}" if total else f"list {config.path}"
            bar.update(task, description=what, completed=done, total=total, refresh=True)

        report = prepare(config, show)
    print(f"{config.out}: {report['status']}", *(f"{key} {value}" for key, value in report.items() if type(value) is int), sep=", ")
    if "compared" in report:
        print(f"compared with {config.path or config.source}: {report['compared']}")
    if left_out := report.get("left_out"):
        counts = ", ".join(f"{count:,} {ending}" for ending, count in sorted(left_out.items()))
        print(f"left out as no pictures: {counts}")
    if report.get("shard_in_key"):
        print("keys begin anew in each shard: the shard's name stands before them")
    return 0
