"""`hires prepare`."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hires.errors import HiresError
from pipelines import PrepareConfig, prepare


def run(config: PrepareConfig) -> int:
    """Make the pyramid of shards, with a progress bar; tells what was made and what was skipped."""
    if not config.out:
        raise HiresError("out=… not given: the folder to write")
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(f"list {config.path}", total=None)

        def show(done: int, total: int | None) -> None:
            bar.update(task, description=f"prepare {config.out}" if total else f"list {config.path}", completed=done, total=total)

        report = prepare(config, show)
    print(f"{config.out}: {report['status']}", *(f"{key} {value}" for key, value in report.items() if isinstance(value, int)), sep=", ")
    return 0
