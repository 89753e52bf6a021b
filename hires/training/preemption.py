"""Being asked to stop: a signal sets a flag, and the ranks agree on the step at which they act on it."""

import signal


class StopRequest:
    """Set by SIGTERM, SIGINT or SIGUSR1 (Slurm's usual warning before the time limit); read by the loop, which saves and leaves."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self):
        self.received: str | None = None
        self._before = {}

    def __enter__(self) -> "StopRequest":
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self.received = signal.Signals(number).name
