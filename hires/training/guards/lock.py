"""One run, one trainer: a second one in the same folder refuses, and what a dead one left is taken over.

The lock is a file `.running-N` in the run's folder, made with O_EXCL, so of many starters one has it. A stale lock N is taken over by
making N + 1: again one winner. Whether its owner lives is known at once on the same machine (process id with its start time, boot, process
namespace), and after a requeue of the same Slurm job; from elsewhere the file is watched for a while, since its owner rewrites it every few
seconds. No two clocks are compared. Removed at exit.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
import json
import os
from pathlib import Path
import random
import socket
import threading
import time
import uuid

from hires.errors import HiresError
from hires.ground import distributed
from pipelines.files import fsync

BEAT = 5.0  # seconds between the owner's signs of life
WATCH = 60.0  # seconds a lock from elsewhere is watched: writing to a busy disk may hold a sign of life up


def process(pid: int | str = "self") -> str | None:
    """What tells a process of this machine from any other that ever had its id: its start time; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[0] in "ZX" else stat[19]  # a zombie trains no more


def place() -> str:
    """This boot of this machine and this namespace of process ids; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip() + " " + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


class RunLock:
    """Holds a run's folder from `with` to the end of the block, on the one rank that makes it."""

    def __init__(self, run: Path, say=print, beat: float = BEAT, watch: float = WATCH):
        self.run, self._say, self._beat, self._watch = run, say, beat, watch
        self._file: Path | None = None
        self._descriptor = -1
        self._stop = threading.Event()
        self._beats = threading.Thread(target=self._live, name="run lock", daemon=True)
        self._me = {
            "host": socket.gethostname(), "pid": os.getpid(), "started": process(), "place": place(),
            "job": os.environ.get("SLURM_JOB_ID", ""), "restart": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": uuid.uuid4().hex,
        }  # fmt: skip

    def __enter__(self) -> "RunLock":
        """Makes the folder and the lock; raises HiresError where another run has it, naming its host and process."""
        self._made = not self.run.exists()
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            while not self._try():
                time.sleep(random.uniform(0.01, 0.1))  # two starters met: once more, not in step
        except OSError as error:
            raise HiresError(f"run={self.run}: cannot be written to: {error.strerror}") from error
        self._beats.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._beats.join()  # it writes to the descriptor that is closed here
        try:
            if self._mine():
                self._file.unlink()
            if self._made:
                self.run.rmdir()  # nothing was begun; a folder with something in it stays
        except OSError:
            pass  # such as: not empty. A lock that stays is stale, and the next run says so
        os.close(self._descriptor)

    def check(self) -> None:
        """Raises HiresError where the lock was lost: this process slept so long that another took it for dead."""
        if not self._mine():
            raise HiresError(f"run={self.run}: another run has taken this folder over, because this one gave no sign of life")

    def _mine(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._file), os.fstat(self._descriptor))
        except OSError:
            return False

    def _locks(self) -> dict[int, Path]:
        names = [p for p in self.run.glob(".running-*") if p.name.removeprefix(".running-").isdecimal()]
        return {int(p.name.removeprefix(".running-")): p for p in names}

    def _try(self) -> bool:
        """One attempt; False where another starter came between."""
        locks, stale = self._locks(), set()
        for file in locks.values():
            text = _read(file)
            if text is None:
                return False  # released just now
            why = self._why_dead(file, text)
            self._say(f"{self.run}: taking over from {_owner(text)}: {why}")
            stale.add(_owner_token(text))
        file = self.run / f".running-{max(locks, default=0) + 1}"
        try:
            self._descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            return False
        self._file = file
        self._write(0)
        # A starter that found no lock may have made another number meanwhile. Each looks after it has made its own, so at least one sees
        # the other; who sees one steps back.
        others = {other: _read(other) for other in self._locks().values() if other != file}
        if any(text is not None and _owner_token(text) not in stale for text in others.values()):
            file.unlink()
            os.close(self._descriptor)
            return False
        for other in others:
            other.unlink(missing_ok=True)
        fsync(self.run)
        return True

    def _why_dead(self, file: Path, text: str) -> str:
        """Why a lock's owner is taken for dead; raises HiresError where it lives."""
        there = _parsed(text)
        if there.get("place") and there["place"] == self._me["place"]:
            if process(there["pid"]) == there["started"] and there["started"]:
                raise self._refusal(text)
            return "that process is gone"
        if there.get("job") and there["job"] == self._me["job"] and there["restart"] < self._me["restart"]:
            return "the same job, requeued"
        self._say(f"{self.run}: locked by {_owner(text)}; watching for {self._watch:g} s for a sign of life")
        until = time.monotonic() + self._watch
        while time.monotonic() < until:
            time.sleep(min(1.0, self._watch / 10))
            if _read(file) != text:
                raise self._refusal(text)
        return f"no sign of life for {self._watch:g} s"

    def _refusal(self, text: str) -> HiresError:
        return HiresError(f"run={self.run}: already being trained by {_owner(text)}; stop that one, or take another run=…")

    def _live(self) -> None:
        beats, fine = 0, True
        while not self._stop.wait(self._beat):
            beats += 1
            try:
                self._write(beats)
                fine = True
            except OSError as error:  # a full disk, a server away: the lock is lost only if another run starts while it lasts
                if fine:
                    self._say(f"{self._file}: cannot write a sign of life: {error.strerror}")
                fine = False

    def _write(self, beats: int) -> None:
        os.pwrite(self._descriptor, json.dumps(self._me | {"beats": f"{beats:012d}"}).encode(), 0)  # always as long, so never cut
        os.fsync(self._descriptor)


def _read(file: Path) -> str | None:
    """Opened anew each time, so that a network's file system asks its server."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _parsed(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError:
        return {}  # killed before the first write, or not yet there: watching it will tell


def _owner_token(text: str) -> str:
    return _parsed(text).get("token", "")


def _owner(text: str) -> str:
    there = _parsed(text)
    if not there:
        return "a run that left no name"
    job = f" (Slurm job {there['job']})" if there["job"] else ""
    return f"process {there['pid']} on {there['host']}{job} since {there['since']}"


@contextmanager
def owned(run: Path, first: bool, say=print) -> Iterator[Callable[[], None]]:
    """The run's folder, held by rank 0 (`first`) for all ranks; gives RunLock.check, which does nothing on the others; a collective.

    Raises HiresError, on all ranks alike, where another run has it.
    """
    with ExitStack() as held:
        lock, problem = None, ""
        if first:
            try:
                lock = held.enter_context(RunLock(run, say))
            except HiresError as error:
                problem = str(error)
        problem = distributed.from_first(problem)
        if problem:
            raise HiresError(problem)
        yield lock.check if lock else lambda: None
