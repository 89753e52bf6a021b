"""What a person sees of a run: tables, progress lines, metrics.jsonl, grids, wandb, TensorBoard."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
import json
import math
import os
from pathlib import Path
import resource
import sys
import time
from typing import TextIO

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
import torch
from torch import Tensor
import torch.distributed as dist

from hires.ground.distributed import World
from hires.ground.outside import Number, parse, problem
from hires.ground.showing import Line, in_notebook
from hires.training import boards
from hires.training.boards import TensorBoard, Wandb
from hires.training.guards.alarm import Alarm
from hires.training.schedule import Phase, Schedule

Board = Wandb | TensorBoard
SHOWN = 1024  # longest side in pixels of a grid that is sent to wandb and TensorBoard; the file in samples/ is whole


def due(before: int, now: int, every: int) -> bool:
    """True when a multiple of `every` images lies in (before, now]."""
    return every > 0 and now // every > before // every


def memory_gb(device: torch.device) -> float:
    """Peak memory of this process in GB: the device's on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


RECORD = {
    **{"images": int, "resolution?": int, "alpha?": Number, "seconds_per_kimg?": Number, "eta_seconds?": Number, "memory_gb?": Number},
    **{"alarm?": [str], "start?": int, "processes?": int, "rollback?": int, "why?": str, "measures?": dict},
}


def read_records(path: Path) -> Iterator[tuple[bytes, dict]]:
    """Each line of a metrics.jsonl with its record; {} where a killed run left it half written, or a disk damaged."""
    for line in path.read_bytes().splitlines():
        record = None
        with suppress(ValueError):
            record = parse(line)
        yield line, {} if problem(record, RECORD) else record


def duration(seconds: float) -> str:
    """'3h 05m', '4m 10s' or '12s'."""
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h {m:02d}m" if hours else f"{m}m {s:02d}s" if m else f"{s}s"


class Means:
    """The terms of the steps since the last progress line, summed on the device: nothing waits for the host."""

    def __init__(self):
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """One step's terms."""
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, world: World) -> dict[str, float]:
        """Their means over steps and ranks, those that are finite; empty where there was no step. Begins anew. A collective."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[n] / self._counts[n] for n in names])
        if world.size > 1:
            dist.all_reduce(means)
            means /= world.size
        self._sums, self._counts = {}, {}
        return {name: value for name, value in zip(names, means.tolist(), strict=True) if math.isfinite(value)}  # JSON has no others


class _Voice(Console):
    """A console whose reader may go away: what is printed then is lost, and nothing else."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process, as rich does."""
        self.lose()

    def print(self, *what, **how) -> None:
        try:
            super().print(*what, **how)
        except OSError:  # a terminal that was closed
            self.lose()

    def lose(self) -> None:
        """From here on nothing is shown, whoever else prints."""
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Monitor:
    """Rank 0's voice; on other ranks every method does nothing."""

    def __init__(
        self, run: Path, schedule: Schedule, first: bool, wandb: str, config: dict, line: Mapping[str, str], tensorboard: bool = False
    ):
        """`line`: the terms of a progress line by the names that it gives them.

        Raises HiresError where a package is not installed, on all ranks alike.
        """
        boards.check(wandb, tensorboard)
        self.run, self.schedule, self.first, self.line = run, schedule, first, line
        self._line, self._level = Line() if in_notebook() else None, 0
        self.console = _Voice(highlight=False, soft_wrap=not sys.stdout.isatty())
        self.step_seconds: dict[int, float] = {}  # resolution -> seconds a thousand images, from the trial steps
        self.alarm = Alarm()
        self._clock, self._clock_images = time.perf_counter(), 0
        self._metrics: TextIO | None = None
        self._boards: list[Board] | None = None  # opened when the run begins
        self._wanted: dict[str, Callable[[], Board]] = {Wandb.NAME: lambda: Wandb(run, wandb, config)} if wandb != "off" else {}
        self._wanted |= {TensorBoard.NAME: lambda: TensorBoard(run)} if tensorboard else {}

    def say(self, text: str) -> None:
        """One line."""
        if self.first and self._line:
            print(text, flush=True)  # a cell shows what is printed as text, and each of rich's as a block of its own
        elif self.first:
            self.console.print(text, markup=False)

    def table(self, table: Table) -> None:
        """A rich table."""
        if self.first:
            self.console.print(table)

    def resume(self, images: int) -> None:
        """Open metrics.jsonl and forget what lies beyond `images`: those steps are about to happen again."""
        self._clock, self._clock_images = time.perf_counter(), images
        if not self.first:
            return
        if self._boards is None:
            self._boards = []
            for name, make in self._wanted.items():
                with self._left_out_where_it_fails(name):
                    self._boards.append(make())
        self._tell(lambda board: board.resume(images))
        path = self.run / "metrics.jsonl"
        kept, self.alarm = [], Alarm()
        if path.exists():
            for line, record in read_records(path):
                if record and record["images"] <= images:
                    kept.append(line)
                    if "resolution" in record:  # a status
                        self.alarm.see(record)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(b"".join(line + b"\n" for line in kept))
        temporary.rename(path)
        self._metrics = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115 - held for the whole run

    def mark(self, record: dict) -> None:
        """A record in metrics.jsonl: of a status, or of an event at `images`."""
        if self._metrics:
            self._metrics.write(json.dumps(record) + "\n")

    def measures(self, images: int, resolution: int, found: dict, lower: dict[str, float]) -> None:
        """A line, and a record in metrics.jsonl (and wandb), of what monitor.measures found."""
        if not self.first or not found:
            return
        self.mark({"images": images, "level": resolution, "measures": found})
        self._tell(lambda board: board.log({f"measures/{name}": value for name, value in lower.items()}, images))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in lower.items()) or "none could be taken"
        self.say(f"{resolution:>4}px measures (lower is better): {shown}")

    def restart_clock(self, images: int) -> None:
        """Leave out of s/kimg what happened since the last status (a growth, a grid, a checkpoint)."""
        self._clock, self._clock_images = time.perf_counter(), images

    def status(self, phase: Phase, images: int, end: int, terms: dict[str, float], memory: float) -> None:
        """A progress line and a record in metrics.jsonl (and wandb)."""
        if not self.first:
            return
        now = time.perf_counter()
        speed = (now - self._clock) / max(images - self._clock_images, 1) * 1000
        eta = self._eta(phase, images, end, speed)
        record = {
            "images": images,
            "resolution": phase.resolution,
            "alpha": round(phase.alpha, 6),
            "batch": phase.batch,
            "lr": phase.lr,
            "seconds_per_kimg": round(speed, 4),
            "memory_gb": round(memory, 3),
            **{name: float(f"{value:.6g}") for name, value in terms.items()},
        }
        away, warning = self.alarm.see(record)
        left = {"eta_seconds": round(eta)} if math.isfinite(eta) else {}  # for `hires slurm status`
        self.mark(record | left | ({"alarm": away} if away else {}))
        self._tell(lambda board: board.log(record, images))
        shown = "  ".join(f"{name} {terms[key]:+.3f}" for name, key in self.line.items() if key in terms)
        text = (
            f"{phase.resolution:>4}px α {phase.alpha:.2f} kimg {images / 1000:8.1f}/{end / 1000:.1f}  {speed:6.1f} s/kimg  "
            f"ETA {duration(eta):>8}  {memory:5.2f} GB  {shown}"
        )
        if self._line:  # a line a level, so that a long run does not fill the notebook
            self._line = self._line if phase.resolution == self._level else Line()
            self._level = phase.resolution
            self._line.write(text)
        else:
            self.say(text)
        if warning:
            self.say(warning)
        self.restart_clock(images)

    def _eta(self, phase: Phase, images: int, end: int, speed: float) -> float:
        """Seconds to the end; higher levels from the trial steps' times, scaled by how this level compares with its own."""
        total, here = 0.0, self.step_seconds.get(phase.resolution)
        for level in self.schedule.levels:
            left = min(level.end, end) - max(level.start, images)
            if left <= 0:
                continue
            if level.resolution == phase.resolution:
                total += left * speed / 1000
            elif here and level.resolution in self.step_seconds:
                total += left * speed / 1000 * self.step_seconds[level.resolution] / here
            else:
                return math.inf  # no trial steps: the higher levels' speed is not known yet
        return total

    def close(self) -> None:
        """Flush and end."""
        if self._metrics:
            self._metrics.close()
        self._tell(lambda board: board.close())
        self._boards = None

    def grid(self, name: str, path: Path, images: int) -> None:
        """Send a grid that was written to wandb and TensorBoard, at most SHOWN pixels wide or high; on rank 0."""
        if not self._boards:
            return
        with Image.open(path) as picture:
            picture.thumbnail((SHOWN, SHOWN), Image.Resampling.BOX)
            pixels = np.asarray(picture)
        self._tell(lambda board: board.grid(name, pixels, images))

    def _tell(self, action: Callable[[Board], None]) -> None:
        """Each board does it; one that fails is dropped."""
        boards, self._boards = self._boards or [], []
        for board in boards:
            with self._left_out_where_it_fails(board.NAME):
                action(board)
                self._boards.append(board)

    @contextmanager
    def _left_out_where_it_fails(self, name: str) -> Iterator[None]:
        """Whatever goes wrong with a board (no key, no network, a full disk) is one line; it never ends the run."""
        try:
            yield
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.say(f"{name}: {reason}; training continues without it")
