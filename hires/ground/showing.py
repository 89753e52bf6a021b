"""What a person sees of a verb while it runs and at its end: on a terminal, in a file, in a notebook's cell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import time

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

WIDE = 220  # columns that a table gets where there is no terminal: cut at 80 it tells nothing
OFTEN = {"terminal": 0.1, "notebook": 0.5}  # seconds between two looks of a bar

Show = Callable[..., None]  # (done, total or None where it is not known, another text for this while)


def in_notebook() -> bool:
    """Whether what is shown goes to a notebook's cell."""
    return Console().is_jupyter


def show_table(*parts: RenderableType) -> None:
    """Print tables, and what stands beside them, as wide as they need to be unless a terminal sets their width."""
    console = Console(markup=False, highlight=False)  # paths may have brackets
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    console.print(*parts)


class Line:
    """A line of a notebook's cell that is written anew instead of adding another."""

    def __init__(self):
        self._handle = None

    def write(self, text: str) -> None:
        """Show `text` in its place."""
        from IPython.display import display

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


@contextmanager
def progress(text: str, unit: str = "") -> Iterator[Show]:
    """A bar on the terminal, one line in a notebook; a file, which is neither, gets the errors alone.

    No thread of it runs beside the work, so that processes may be forked meanwhile.
    """
    console = Console(stderr=True)
    if not console.is_terminal and not console.is_jupyter:
        yield lambda done, total=None, instead="": None
        return
    often, last, line = OFTEN["notebook" if console.is_jupyter else "terminal"], 0.0, Line()
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=console.is_jupyter) as bar:
        task = bar.add_task(text, total=None)

        def show(done: int, total: int | None = None, instead: str = "") -> None:
            nonlocal last
            if time.monotonic() - last < often and done != total:
                return
            last = time.monotonic()
            told = f"{instead or text} {done:,}" + (f" of {total:,}" if total else "") + f" {unit}".rstrip()
            if console.is_jupyter:
                line.write(told)
            else:
                bar.update(task, description=told, completed=done, total=total, refresh=True)

        yield show
