"""A rank that hangs ends the run: every rank's Python stacks go to its stderr, and the rank that all wait for is named.

A collective that waits for a rank cannot be interrupted and names nobody. So each rank has a thread that looks at what the main thread
last said it was doing, tells rank 0 over a socket of its own, and hears from there when the run is to end.
"""

from dataclasses import asdict, dataclass
import faulthandler
import json
import os
import secrets
import socket
import socketserver
import sys
import threading
import time
from traceback import walk_stack

from hires.errors import HiresError
from hires.ground import distributed
from hires.ground.distributed import World
from hires.training.guards.stopping import parse_seconds
from hires.training.monitor import duration

PATIENCE = 3  # times the limit for the start, a trial step, a level's first step, growth, grids and saving
COLLECTIVE = ("distributed_c10d", f"deepspeed{os.sep}comm")  # a rank with a thread in one of these waits for others


@dataclass
class Beat:
    """What a rank's thread tells of its main thread."""

    rank: int
    marks: int  # how often the main thread said what it does: the same on all ranks that are equally far
    images: int
    doing: str
    overdue: bool  # nothing said for longer than is allowed
    place: str  # file, line and function, of a main thread that is overdue
    waits: bool  # its main thread, or one that it waits for, is inside a collective


def parse_limit(text: str) -> int:
    """`train.hang_timeout` in seconds, 0 for off; raises HiresError where it is no length of time."""
    try:
        return 0 if text in ("off", "0") else parse_seconds(text, "train.hang_timeout")
    except HiresError as error:
        raise HiresError(f"{error}, or off") from None


def judge(beats: list[Beat], silent: dict[int, float], names: list[str], limit: float) -> str | None:
    """Who is to blame, in a sentence; None while the rank that is behind is still within its time.

    `silent` holds the seconds since each rank's thread was last heard.
    """
    gone = [b for b in beats if silent[b.rank] > limit / 2]
    if gone:
        place = _where(max((b for b in beats if b not in gone), key=lambda b: b.marks))  # its own last beat is some seconds older
        return f"{', '.join(names[b.rank] for b in gone)} stopped answering at {place}"
    least = min(b.marks for b in beats)
    behind = [b for b in beats if b.marks == least]
    if not all(b.overdue for b in behind):
        return None
    # equally far: who is in a collective waits, and who is elsewhere is waited for
    elsewhere = [b for b in behind if not b.waits]
    behind = elsewhere if elsewhere and len(elsewhere) < len(beats) else behind
    if len(behind) < len(beats) or len(beats) == 1:
        return ", ".join(f"{names[b.rank]} stopped answering at {_where(b)}" for b in behind)
    places = "; ".join(f"{names[b.rank]} in {b.place}" for b in beats)
    return f"all ranks hang at {_where(behind[0])} and none is behind the others: {places}"


def _where(beat: Beat) -> str:
    return f"{beat.images:,} images during {beat.doing}" + (f" ({beat.place})" if beat.place else "")


class _Hub(socketserver.ThreadingTCPServer):
    """Rank 0's side: hears beats, judges, and tells everybody."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, names: list[str], limit: float):
        super().__init__(("", 0), _Call)
        self.names, self.limit, self.token = names, limit, secrets.token_hex(8)
        self.verdict: str | None = None
        now = time.monotonic()
        self._heard = {rank: (now, Beat(rank, 0, 0, "the start", False, "", False)) for rank in range(len(names))}
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, name="hires hub", daemon=True).start()

    def hear(self, beat: Beat) -> str | None:
        """Take a beat; returns the verdict once there is one."""
        with self._lock:
            now = time.monotonic()
            self._heard[beat.rank] = (now, beat)
            if beat.overdue and not self.verdict:
                silent = {rank: now - then for rank, (then, _) in self._heard.items()}
                self.verdict = judge([b for _, b in self._heard.values()], silent, self.names, self.limit)
            return self.verdict

    def handle_error(self, request, client_address) -> None:
        """A caller that broke off, or a stranger, is no trouble of the run's."""


class _Call(socketserver.StreamRequestHandler):
    timeout = 10
    server: _Hub

    def handle(self) -> None:
        call = json.loads(self.rfile.readline(65536))
        if call.pop("token") == self.server.token:
            self.wfile.write(json.dumps(self.server.hear(Beat(**call))).encode() + b"\n")


class Watchdog:
    """Ends this process, and with it the run, when the main thread or another rank's says nothing for `limit` seconds (0: never)."""

    def __init__(self, world: World, limit: float):
        self.world, self.limit = world, limit
        self._mark = (0, 0, "the start", limit * PATIENCE, time.monotonic())
        self._interval = min(limit / 8, 5.0)
        self._over = threading.Event()
        self._hub: _Hub | None = None
        self._reached = False
        self._thread: threading.Thread | None = None
        self._main = threading.get_ident()

    def __enter__(self) -> "Watchdog":
        """A collective."""
        if not self.limit:
            return self
        self._names = distributed.gather(f"rank {self.world.rank} (host {socket.gethostname()}, pid {os.getpid()})")
        if self.world.size > 1:
            self._hub = _Hub(self._names, self.limit) if self.world.first else None
            port, self._token = distributed.from_first([self._hub.server_address[1], self._hub.token] if self._hub else None)
            self._address = (os.environ["MASTER_ADDR"], port)
        distributed.set_timeout(2 * PATIENCE * self.limit)  # the process group's own, which names nobody, comes after
        self.at("the start", 0, patient=True)
        self._arm()
        self._tell(self._beat())
        if not self._reached and not self.world.first:
            place = f"{self._names[self.world.rank]} cannot reach rank 0 at {self._address[0]}:{self._address[1]}"
            print(f"hires train: {place}: a hang would end the run without naming the rank at fault", file=sys.stderr, flush=True)
        self._thread = threading.Thread(target=self._watch, name="hires watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, error: type | None, *_) -> None:
        # a collective fails when another rank has ended on a verdict: this one may not have heard it yet
        verdict = self._tell(self._beat()) if error and self._thread else None
        if verdict:
            self._end(verdict)
        self._over.set()
        if self._thread:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
        if self._hub:
            self._hub.shutdown()
            self._hub.server_close()

    def at(self, doing: str, images: int, patient: bool = False) -> None:
        """The main thread says what it does next, on all ranks alike; costs nothing. `patient`: it may take PATIENCE times the limit."""
        self._mark = (self._mark[0] + 1, images, doing, self.limit * (PATIENCE if patient else 1), time.monotonic())

    # ------------------------------------------------------------------------------------------------ in the thread

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self._arm()
            verdict = self._tell(self._beat())
            if verdict and not self._over.is_set():
                self._end(verdict)

    def _arm(self) -> None:
        """For a main thread that holds the interpreter, so that this one cannot run: a thread of the C library's dumps and ends."""
        faulthandler.dump_traceback_later(self._mark[3] + self._interval, exit=True, file=2)

    def _beat(self) -> Beat:
        marks, images, doing, allowed, since = self._mark
        overdue, place, waits = time.monotonic() - since > allowed, "", False
        frames = sys._current_frames() if overdue else {}
        if frames:
            code, line = frames[self._main].f_code, frames[self._main].f_lineno
            place = f"{os.path.basename(code.co_filename)}:{line} {code.co_name}"
            waits = any(part in frame.f_code.co_filename for top in frames.values() for frame, _ in walk_stack(top) for part in COLLECTIVE)
        return Beat(self.world.rank, marks, images, doing, overdue, place, waits)

    def _tell(self, beat: Beat) -> str | None:
        if self.world.size == 1:
            return judge([beat], {0: 0.0}, self._names, self.limit)
        if self._hub:
            return self._hub.hear(beat)
        try:
            with socket.create_connection(self._address, timeout=max(self._interval, 2.0)) as line:
                line.sendall(json.dumps(asdict(beat) | {"token": self._token}).encode() + b"\n")
                verdict = json.loads(line.makefile().readline())
                self._reached = True
                return verdict
        except (OSError, ValueError):  # rank 0 is gone, or stopped: of interest when this rank waits for it
            if not beat.overdue:
                return None
            if self._reached:
                return f"{self._names[0]} stopped answering while {self._names[self.world.rank]} was at {_where(beat)}"
            return f"no progress at {_where(beat)}; which rank hangs is not known, {self._address[0]} could never be reached"

    def _end(self, verdict: str) -> None:
        os.write(2, f"{self._names[self.world.rank]}: Python stacks\n".encode())
        faulthandler.dump_traceback(file=2, all_threads=True)
        text = f"{verdict}; all ranks end (train.hang_timeout={duration(self.limit)}, docs/reference/errors.md)"
        os.write(2, f"hires train: error: {text}\n".encode())
        # the others' collectives break when this process ends: they are to hear the verdict before, and it is heard from rank 0
        time.sleep((2 if self._hub else 1) * (2 * self._interval + 1))
        os._exit(1)  # the main thread cannot be interrupted
