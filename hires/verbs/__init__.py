"""The verbs, thin: configuration in, library calls, a line or a table out, and what was made returned; `call` is the way to each."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
import errno
import importlib
import logging
import os
import re
import sys
from typing import Any

from hires.errors import HiresError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # what a person can mend: full, over quota, read-only, not allowed
# what gloo, and torch's store at the start, say when a process at the other end is gone
# what gloo, torch's store and nccl say where another rank has gone
LOST = re.compile(
    r"connection (was likely )?(closed|reset)( by peer)?|broken pipe|connectFullMesh failed"
    r"|client socket has (failed to connect|timed out)|remote process exiting",
    re.I,
)


class Result:
    """What a verb made; `status` is the command's: 0, 85 for "saved, run me again", 1 where something was found wrong."""

    @property
    def status(self) -> int:
        return 0


def call(
    verb: str,
    settings: str | Iterable[str] = (),
    keywords: Mapping[str, Any] | None = None,
    *,
    begin: Callable[[], None] | None = None,
    **how: Any,
) -> Any:
    """Run a verb with the command line's settings, and return its Result; raises HiresError for whatever a person can mend.

    What the verb sets for the whole process, such as environment variables or torch's threads, is put back at its end. `begin` is called
    once the settings are read and the verb imported.
    """
    settings = [settings] if isinstance(settings, str) else list(settings)
    with _errors_in_a_line(), _as_found():
        from hires import config as configuration

        config = configuration.load(verb, [*settings, *_settings(keywords or {})])
        run = importlib.import_module(f"hires.verbs.{verb}").run
        if begin:
            begin()
        return run(config, **how)


def processes() -> int:
    """How many of its kind a launcher, torchrun or srun, started with this process; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or (os.environ.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in os.environ else 1))


def _settings(keywords: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """`run=Path("a"), train={"threads": 1}, seeds=range(3), from_="b"` as run=a, train.threads=1, seeds=0,1,2 and from=b."""
    for key, value in keywords.items():
        name = within + ("from" if key == "from_" else str(key))
        if isinstance(value, Mapping):
            yield from _settings(value, f"{name}.")
        else:
            yield f"{name}={_text(value)}"


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return ",".join(map(_text, value)) if isinstance(value, list | tuple | range) else str(value)


@contextmanager
def _errors_in_a_line() -> Iterator[None]:
    from pipelines import DataError

    try:
        yield
    except DataError as error:
        raise HiresError(str(error)) from error
    except OSError as error:
        if error.errno not in DISK:
            raise  # not the disk's fault: a traceback helps more
        raise HiresError(f"{error.filename or 'a file'}: {error.strerror}") from error
    except RuntimeError as error:
        lost = LOST.search(str(error))
        if processes() < 2 or not lost:
            raise
        rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "?")
        text = f"rank {rank} lost another rank ({lost[0]}); what the rank that ended first says is the reason"
        raise HiresError(text) from error


@contextmanager
def _as_found() -> Iterator[None]:
    """Put back what verbs and the libraries below them set for the whole process. Signal handlers and the group see to themselves."""
    environment, level = dict(os.environ), logging.getLogger().level
    torch = sys.modules.get("torch")  # not imported for this: who has none has set nothing
    switches = [torch.backends.cudnn, torch.backends.cuda.matmul] if torch else []
    threads, tf32 = torch.get_num_threads() if torch else 0, [switch.allow_tf32 for switch in switches]
    try:
        yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        logging.getLogger().setLevel(level)
        for switch, before in zip(switches, tf32, strict=True):
            switch.allow_tf32 = before
        if threads and torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
