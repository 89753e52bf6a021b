"""Damaged bytes for what reads runs, checkpoints, bundles and the page's requests: the cases and options of benchmarks/fuzz.py.

    python benchmarks/fuzz_runs.py --cases 1000
    python benchmarks/fuzz_runs.py --kinds status --first 500 --cases 1

`signed` kinds have their hashes made anew after the damage, so that it reaches the readers behind the check. Pictures that a bundle draws,
and tensors of a checkpoint, must be the right ones or none where the hashes are left as they were.
"""

import asyncio
import atexit
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
import io
import json
import os
from pathlib import Path
import shutil
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: its threads would be missing in the forked processes, which would wait for them
os.environ["DS_ACCELERATOR"] = "cpu"

import fuzz
import numpy as np

import hires
from hires.bundle import from_run
from hires.checkpoints import reading
from hires.explore.model import Explorer
from hires.explore.server import application
from hires.report import page
from hires.report.run import read as read_run
from hires.verbs import call

TINY = ["network=slim", "network.latent=4", "network.channels_base=32", "network.channels_max=8", "network.convs=1"]
TINY += ["network.image_channels=1", "schedule.resolution=4", "schedule.levels.4.stable=32", "schedule.levels.4.batch=16"]
TINY += ["train.precision=fp32", "train.trial=false", "train.threads=1", "train.checkpoint_every=16", "train.keep=99"]
TINY += ["monitor.status_every=16", "monitor.snapshot_every=1M", "monitor.samples=4"]


@cache
def made() -> Path:
    """A folder with a finished run of two checkpoints, `run`, and its bundle, `bundle`."""
    folder = Path(tempfile.mkdtemp())
    with redirect_stdout(io.StringIO()):
        hires.prepare(source="digits", out=folder / "digits", resolution=4, workers=1)
        hires.train([*TINY, f"data.root={folder / 'digits'}"], run=folder / "run")
        hires.export(run=folder / "run", out=folder / "bundle")
    return folder


def _copy(part: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copytree(made() / part, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png", "bundle-*", "*.py", "*.lock"))

    return write


def _bundle(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    bundle = hires.load(folder)
    for seed, x in enumerate(bundle.sample(range(2))):
        yield f"{seed}", x.numpy()
    yield "energy", bundle.score(bundle.sample([0])).numpy()


def _unsigned(folder: Path) -> None:
    """As bundles of old: no hash anywhere."""
    _copy("bundle")(folder)
    (folder / "README.md").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if "sha256" not in key}))


def _checkpoint(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in reading.complete(folder / "checkpoints"):
        if reading.verify(path) is None:
            checkpoint = reading.Checkpoint(path)
            for place in sorted(checkpoint._index):
                yield " ".join([path.name, *place]), checkpoint.read(*place, 0, checkpoint.numel(*place)).numpy()
    from_run.load(str(folder))


def _signed_checkpoint(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    with _signed(folder / "checkpoints"):
        yield from _checkpoint(folder)


class _signed:
    """Manifests that say of the files beside them what these are, while inside."""

    def __init__(self, folder: Path):
        self.before = {path: path.read_bytes() for path in folder.glob("*/manifest.json")}

    def __enter__(self) -> None:
        for path, data in self.before.items():
            with suppress(ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
                manifest = json.loads(data)
                for entry in manifest["files"]:
                    file = path.parent / Path(entry["name"]).name
                    entry |= {"bytes": file.stat().st_size, "blake3": reading.file_hash(file)}
                manifest.pop("sha256", None)
                path.write_text(reading.manifest_text(manifest))

    def __exit__(self, *_: object) -> None:
        for path, data in self.before.items():
            path.write_bytes(data)


def _silent(work: Callable[[Path], object]) -> Callable[[Path], Iterator[tuple[str, np.ndarray]]]:
    def read(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
        with redirect_stdout(io.StringIO()):
            work(folder)
        yield "read", np.zeros(1)

    return read


def _asked(folder: Path) -> None:
    """Requests of the page and an upload in each format, as files of their bodies."""
    code = {"code": [0.1, -2, 3e-1, 0]}
    asked = {"sample": {"seeds": [0, 7], "truncation": 0.7}}
    asked["decode"] = {"points": [{"seed": 3}, code], "weights": [1, 0.5], "path": "sphere"}
    for name, body in asked.items():
        (folder / f"{name}.json").write_text(json.dumps(body))
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        (folder / f"reconstruct.{form.lower()}").write_bytes(fuzz.encoded(fuzz.pictures()[0], form))


@cache
def _page(_process: int):
    """The page's server in this process, and what asks it."""
    from aiohttp.test_utils import TestClient, TestServer

    loop = asyncio.new_event_loop()
    client = TestClient(TestServer(application(Explorer(hires.load(made() / "bundle"), "bundle"), {"127.0.0.1"})), loop=loop)
    loop.run_until_complete(client.start_server())
    atexit.register(lambda: loop.run_until_complete(client.close()))  # of the first process; the others end without
    return loop, client


def _answers(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    loop, client = _page(os.getpid())

    async def ask(file: Path) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if file.suffix == ".json" else {}
        async with client.post(f"/api/{file.stem}", data=file.read_bytes(), headers=headers) as answer:
            return answer.status, await answer.read()

    for file in sorted(folder.iterdir()):
        status, body = loop.run_until_complete(ask(file))
        answer = json.loads(body, parse_constant=lambda name: 1 / 0)  # browsers know no NaN
        if status >= 500 or (status >= 400 and "\n" in answer["error"]):
            raise AssertionError(f"{file.name}: {status} {answer}")
        if status >= 400 and not answer["error"]:
            raise AssertionError(f"{file.name}: {status} without a word")
    yield "asked", np.zeros(1)


def _report(folder: Path) -> None:
    page.report(read_run(folder), "")


RUNS = {
    "bundle": fuzz.Kind(_copy("bundle"), _bundle, True),
    "bundle-unsigned": fuzz.Kind(_unsigned, _bundle),
    "checkpoint": fuzz.Kind(_copy("run"), _checkpoint, True),
    "checkpoint-signed": fuzz.Kind(_copy("run"), _signed_checkpoint),
    "run": fuzz.Kind(_copy("run"), _silent(lambda folder: read_run(folder))),
    "status": fuzz.Kind(_copy("run"), _silent(lambda folder: call("slurm", ["action=status", f"run={folder}"]))),
    "checkpoints": fuzz.Kind(_copy("run"), _silent(lambda folder: call("checkpoints", [f"run={folder}"]))),
    "page": fuzz.Kind(_asked, _answers),
    "report": fuzz.Kind(_copy("run"), _silent(_report)),
}
fuzz.KINDS |= RUNS

if __name__ == "__main__":
    sys.exit(fuzz.main(",".join(RUNS)))
