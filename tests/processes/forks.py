"""Processes that are forked from one that has imported torch, DeepSpeed and hires, instead of importing them anew (seconds each).

`serving` starts that process, which all workers of pytest share; it imports when the first of them asks. `Server.start` is
`subprocess.Popen` for commands of this Python: what runs finds its own arguments, environment, folder and output as in a process of its
own, no process group and no thread. What does not fit, because a promise is about the start itself, uses subprocess.
"""

import atexit
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import gc
import importlib
import io
import json
import os
from pathlib import Path
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from typing import IO

import numpy as np

# beside every verb: what these import late; not pyarrow, which starts a thread
IMPORTED = ("deepspeed.runtime.zero.muon.muon_optimizer", "torch._dynamo", "sklearn.datasets", "matplotlib.pyplot", "av")
OPTIONS = ("-u", "-I", "-B")  # of Python; -I changes nothing here
LARGEST = 1 << 18  # bytes of a request


class Forked:
    """A process of the server; pid, stdout, stderr, returncode, poll, wait, communicate and so on as those of subprocess.Popen."""

    def __init__(self, pid: int, answer: IO, stdout: IO | None, stderr: IO | None):
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None
        self._answer = answer

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_) -> None:
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or minus the signal that ended it."""
        if self.returncode is None:
            if not select.select([self._answer], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked process", timeout)
            self.returncode = os.waitstatus_to_exitcode(int(self._answer.readline()))
            self._answer.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit status where it has ended."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """A signal, where it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """What it still says, and its end; killed where it takes longer than `timeout` seconds."""
        with ThreadPoolExecutor(2) as pool:
            pipes = [None if pipe is None or pipe.closed else pipe for pipe in (self.stdout, self.stderr)]
            said = [pool.submit(lambda pipe=pipe: pipe and pipe.read()) for pipe in pipes]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        for pipe in filter(None, pipes):
            pipe.close()
        return said[0].result(), said[1].result()


@contextlib.contextmanager
def serving(env: dict[str, str]) -> Iterator[str]:
    """The process that imports everything, and forks; where a `Server` finds it."""
    address = f"hires-forks-{os.getpid()}-{os.urandom(4).hex()}"
    env = env | {"TORCHDYNAMO_DISABLE": "1"}  # as hires.training.player sets them before
    if env.get("CUDA_VISIBLE_DEVICES") == "":
        env["DS_ACCELERATOR"] = "cpu"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("\0" + address)  # no file: nothing is left of it
        listening.listen()
        command, fd = [sys.executable, __file__, str(listening.fileno())], listening.fileno()
        process = subprocess.Popen(command, env=env, pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with process:  # whose end is that of its standard input
        yield address


class Server:
    """One's connection to the process that forks."""

    def __init__(self, address: str):
        self._here = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._here.connect("\0" + address)

    def close(self) -> None:
        """End what was started here and still runs."""
        self._here.close()

    def start(self, command: list, *, env: dict[str, str], cwd: Path | str | None = None, stdout=None, stderr=None) -> Forked:
        """[python, options, -m MODULE | -c CODE | FILE, arguments …] begun; stdout and stderr are PIPE, DEVNULL, STDOUT, a file or None."""
        python, *words = map(str, command)
        assert python == sys.executable
        asked = {"words": words, "env": env, "cwd": str(cwd or Path.cwd())}
        pipes, fds, ours = [], [], []
        for given in (stdout, stderr):
            read = None
            if given == subprocess.PIPE:
                read, write = os.pipe()
                ours.append(write)
            elif given == subprocess.DEVNULL:
                write = os.open(os.devnull, os.O_WRONLY)
                ours.append(write)
            elif given == subprocess.STDOUT:
                write = fds[0]
            else:
                write = given.fileno() if given else len(fds) + 1
            fds.append(write)
            pipes.append(None if read is None else open(read))  # noqa: SIM115 - Forked's
        answer, write = os.pipe()
        ours.append(write)
        socket.send_fds(self._here, [json.dumps(asked).encode()], [*fds, write])
        for fd in ours:
            os.close(fd)
        reader = open(answer)  # noqa: SIM115 - its pid, and much later how it ended
        line = reader.readline()
        assert line, "the process that forks has ended"
        return Forked(int(line), reader, *pipes)

    def run(self, command: list, *, timeout: float, **how) -> subprocess.CompletedProcess:
        """The same, finished, with what it said."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)
        out, err = process.communicate(timeout)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def world(self, size: int, command: list, *, env: dict[str, str], timeout: float) -> str:
        """As many ranks as torchrun starts them -> all that they said; the first to fail ends the others, and the test."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = env | {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        where = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        ranks = [self.start(command, env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, **where) for rank in range(size)]

        def finish(one: Forked) -> str:
            try:
                said = one.communicate(timeout)[0]
            except subprocess.TimeoutExpired:
                said = f"killed after {timeout} s"
            if one.returncode:
                for other in ranks:
                    other.kill()
            return said

        with ThreadPoolExecutor(size) as pool:
            said = [f"rank {rank}: {text}" for rank, text in enumerate(pool.map(finish, ranks))]
        assert not any(one.returncode for one in ranks), "\n".join(text[-3000:] for text in said)
        return "\n".join(said)


# ------------------------------------------------------------------------------------------------ in the server


def serve(listening: socket.socket) -> None:
    """Fork for each request, tell each one's pid and how it ended, until standard input closes."""
    with selectors.DefaultSelector() as ready:
        ready.register(0, selectors.EVENT_READ)
        ready.register(listening, selectors.EVENT_READ)
        running: dict[int, tuple[int, int, socket.socket]] = {}

        def end(of: socket.socket | None = None) -> None:
            for pid, _, asked in running.values():
                if of in (None, asked):
                    os.kill(pid, signal.SIGKILL)

        while True:
            for key, _ in ready.select():
                if key.fileobj == 0:
                    return end()
                if key.fileobj is listening:
                    ready.register(listening.accept()[0], selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket):
                    data, fds, *_ = socket.recv_fds(key.fileobj, LARGEST, 3)
                    if not data:
                        end(key.fileobj)
                        ready.unregister(key.fileobj)
                        continue
                    out, err, answer = fds
                    pid = os.fork()
                    if not pid:
                        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                        os.dup2(out, 1)
                        os.dup2(err, 2)
                        os.closerange(3, 1 << 12)  # the server's own
                        become(**json.loads(data))
                    os.close(out)
                    os.close(err)
                    os.write(answer, b"%d\n" % pid)
                    handle = os.pidfd_open(pid)
                    running[handle] = pid, answer, key.fileobj
                    ready.register(handle, selectors.EVENT_READ)
                else:
                    pid, answer, _ = running.pop(key.fd)
                    ready.unregister(key.fd)
                    os.close(key.fd)
                    status = os.waitpid(pid, 0)[1]
                    with contextlib.suppress(BrokenPipeError):  # the test has gone on without it
                        os.write(answer, b"%d\n" % status)
                    os.close(answer)


def become(words: list[str], env: dict[str, str], cwd: str) -> None:
    """The process that was asked for, to its end: never returns."""
    status = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
        tempfile.tempdir = None
        np.random.seed()
        start = next(i for i, word in enumerate(words) if word not in OPTIONS)
        unbuffered = "-u" in words[:start] or bool(env.get("PYTHONUNBUFFERED"))
        sys.dont_write_bytecode = "-B" in words[:start] or bool(env.get("PYTHONDONTWRITEBYTECODE"))
        words = words[start:]
        for name, fd in (("stdout", 1), ("stderr", 2)):
            raw = open(fd, "wb", buffering=0 if unbuffered else -1)  # noqa: SIM115 - to the process's end
            errors = "backslashreplace" if fd == 2 else "strict"
            text = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=fd == 2, write_through=unbuffered)
            setattr(sys, name, text)
            setattr(sys, f"__{name}__", text)
        status = _run(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the others see what ended it
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            threading._shutdown()  # as an interpreter ends: its threads, what was registered, what was not yet written
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _run(words: list[str]) -> int:
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
    return 0


def main() -> None:
    """Import what most commands need, once one asks, and serve."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    if 0 in select.select([0, listening], [], [])[0]:
        return
    for name in IMPORTED:
        importlib.import_module(name)
    from hires import cli
    from hires import config as configuration

    for verb in (*cli.VERBS, "video_growth"):
        importlib.import_module(f"hires.verbs.{verb}")
    configuration.load("train", ["run=none", "data.root=none"])  # Hydra's parser learns its grammar
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be missing in what is forked from here"
    gc.freeze()  # a player's end collects garbage: not through all that was imported, each time
    serve(listening)


if __name__ == "__main__":
    sys.path.pop(0)
    main()
