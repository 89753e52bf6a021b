"""What ends a command from outside: Ctrl-C, and readers of its output that go away."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import io
import os
import signal
import sys
from types import FrameType

STATUS = 130  # as a shell gives for SIGINT
OUTPUT = "standard output"  # an OSError's file, where that is what cannot be written


@contextmanager
def interrupts_in_a_line(command: str) -> Iterator[None]:
    """After Ctrl-C the block is left by KeyboardInterrupt, and the process ends with `command: interrupted` and status 130.

    A second Ctrl-C ends it at once. So does one that falls into an import or a destructor: there Python and libraries lose the exception
    or turn it into another. Where SIGINT is ignored (nohup, a script's background) it stays so. The process keeps this to its end.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    owner, heard = os.getpid(), False

    def end() -> None:
        if os.getpid() == owner:  # else a worker that was just forked: its parent says it
            for stream in filter(None, (sys.stdout, sys.stderr)):
                with suppress(Exception):  # in the middle of another write, or closed
                    stream.flush()
            with suppress(OSError):
                os.write(2, f"{command}: interrupted\n".encode(errors="replace"))
        os._exit(STATUS)

    def receive(_number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard or os.getpid() != owner or _importing(frame):
            end()
        heard = True
        raise KeyboardInterrupt

    def lost(error) -> None:
        if heard:
            end()
        sys.__unraisablehook__(error)

    signal.signal(signal.SIGINT, receive)
    sys.unraisablehook = lost
    try:
        yield
    except BaseException as error:
        if heard or isinstance(error, KeyboardInterrupt):  # the latter from training, which has a handler of its own
            end()
        raise


def _importing(frame: FrameType | None) -> bool:
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def outlive_readers() -> None:
    """What is printed for a reader that has gone (`| head -1`) is lost from here on, and nothing else: the command goes on to its end.

    So is what is printed where the output was closed before the start (`>&-`).
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="replace"))  # noqa: SIM115 - held to the process's end
            continue
        if stream.isatty():
            continue
        stream.flush()
        raw = _Lossy(stream.fileno(), "w", closefd=False)
        buffer = raw if stream.write_through else io.BufferedWriter(raw)
        how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, **how))


class _Lossy(io.FileIO):
    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes
        except OSError as error:
            raise OSError(error.errno, error.strerror, OUTPUT) from None
