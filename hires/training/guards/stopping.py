"""Being asked to stop: a signal or a time budget sets a flag, and the ranks agree on the step at which they act on it."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import re
import signal
import threading
import time

from hires.errors import HiresError
from hires.ground import distributed

SIGNALS = ("USR1", "USR2", "HUP", "QUIT", "ALRM", "XCPU", "TERM", "INT")
UNMEASURED = 60.0  # seconds a save is taken to last before the first one of this process; a tenth of the budget where that is less


def parse_seconds(text: str, name: str) -> int:
    """'90s', '45m', '3h50m' or '1d2h' in seconds; raises HiresError naming the setting for any other text."""
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    seconds = sum(int(n or 0) * unit for n, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True)) if match else 0
    if not seconds:
        raise HiresError(f"{name}={text}: wanted a length of time such as 90s, 45m, 3h50m or 1d2h")
    return seconds


def process_seconds() -> float:
    """Seconds since this process was started, imports and all, by the kernel's clock that nobody can set."""
    stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    fields = stat.rpartition(")")[2].split()  # the name before may hold spaces
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


class StopRequest:
    """Set by SIGTERM, SIGINT, SIGHUP (a lost terminal), the signal of `train.stop_signal` or the end of `train.stop_after`.

    The loop reads it, saves and leaves. Under nohup, which ignores SIGHUP, a lost terminal changes nothing.
    """

    def __init__(self, stop_signal: str = "USR1", stop_after: str = "", decides: bool = True, begins: float = 0.0):
        """`decides`: whether this rank's clock ends the budget (rank 0's alone); `begins`: at which of `process_seconds`.

        Raises HiresError for a setting that means nothing.
        """
        name = stop_signal.upper().removeprefix("SIG")
        if name not in SIGNALS:
            raise HiresError(f"train.stop_signal={stop_signal}: wanted one of {', '.join(SIGNALS)}")
        self.received: str | None = None
        self._interrupted = False
        self._signals = {signal.SIGTERM, signal.SIGINT, signal.Signals[f"SIG{name}"]}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN or name == "HUP":  # else: nohup
            self._signals.add(signal.SIGHUP)
        self._before = {}
        self._reason = f"train.stop_after={stop_after}"
        self._budget = parse_seconds(stop_after, "train.stop_after") if stop_after else 0
        self._decides = decides
        self._save_seconds, self._guessed = min(UNMEASURED, self._budget / 10), True
        self._turn_seconds = self._build_seconds = 0.0
        self._turned = time.monotonic()
        self._begins = begins

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # in others Python takes no signals
            for number in self._signals:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def saved(self, seconds: float) -> None:
        """How long a save took, from its beginning until it was whole on the disk; may be called from another thread."""
        self._save_seconds = seconds if self._guessed else max(seconds, self._save_seconds)
        self._guessed = False

    def restart_turn(self) -> None:
        """What happened since the last `asked`, a save, is no turn of the loop."""
        self._turned = time.monotonic()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Measures a growth."""
        began = time.monotonic()
        yield
        self._build_seconds = time.monotonic() - began

    def asked(self, fresh: bool = False, building: bool = False) -> bool:
        """Whether this rank wants to stop, for a signal or because its budget is nearly spent; asked after each step, and before a growth.

        The ranks agree one step late, so what must still fit is a turn of the loop (a step and what is shown between two, the longest so
        far, but not a `fresh` engine's first) until the next look, one until they agree, one to spare, and a save of twice the longest
        one's length; before a growth also one of twice the last growth's.
        """
        now = time.monotonic()
        if not fresh and not building:
            self._turn_seconds = max(self._turn_seconds, now - self._turned)
        self._turned = now
        needed = 3 * self._turn_seconds + 2 * self._save_seconds + (2 * self._build_seconds if building else 0)
        if self._budget and self._decides and not self.received and self._budget - (process_seconds() - self._begins) < needed:
            self.received = self._reason
        return self.received is not None

    def agreed_reason(self) -> str:
        """Why the run stops, such as 'SIGTERM (rank 3)'; a collective, where one rank at least was asked."""
        reason, rank = next((reason, rank) for rank, reason in enumerate(distributed.gather(self.received)) if reason)
        return f"{reason} (rank {rank})" if rank else reason

    def _receive(self, number: int, _frame) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self._interrupted |= number == signal.SIGINT
        self.received = self.received or signal.Signals(number).name
