"""Checkpoints as they are written: training waits only until this rank's share is copied to host memory; the rest is done beside it.

The copy lies in memory as it will lie in the file (safetensors' layout: length, header, data), in one buffer that is used again from save
to save. A thread writes and hashes it; the ranks' threads agree through a process group of their own, so that nothing of theirs meets the
training's collectives. On disk: a hidden folder; each rank's file, fsynced; when all are there, the manifest, fsynced; the folder renamed;
its parent fsynced; and only then do older checkpoints go. Whoever reads finds a whole checkpoint under its name, or none.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
import json
import os
from pathlib import Path
import shutil
import threading
import time
from typing import Any

from blake3 import blake3
import torch
from torch import Tensor
import torch.distributed as dist

from hires.checkpoints import reading, retention
from hires.checkpoints.fragments import FIELDS, Saved
from hires.checkpoints.retention import Policy, hidden
from hires.errors import HiresError
from hires.ground import distributed
from hires.ground.files import in_words
from pipelines.files import fsync

CHUNK = 16 << 20  # bytes written at once
OTHERS = timedelta(hours=2)  # how long a rank's thread waits for the slowest disk
LAST = 60.0  # seconds that a run which ends by an error gives a save under way
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


Carried = dict[str, tuple[Tensor, int]]  # an objective's state: name -> (this rank's stretch, its start)


class Saver:
    """Writes one run's checkpoints, one at a time. Every method is called by all ranks alike."""

    def __init__(
        self,
        folder: Path,
        policy: Policy,
        say: Callable[[str], None] = print,
        check: Callable[[], None] = lambda: None,
        timed: Callable[[float], None] = lambda seconds: None,
    ):
        """A collective. From the thread, `say` tells a line on rank 0, `check` raises HiresError on rank 0 where this run may not commit
        any more, and `timed` gets the seconds from a save's call until it was on the disk.
        """
        self.folder, self._policy, self._say, self._check, self._timed = folder, policy, say, check, timed
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=OTHERS) if self._size > 1 else None
        self._host = torch.empty(0, dtype=torch.uint8)
        self._thread: threading.Thread | None = None
        self._failure: HiresError | None = None

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.join()
        elif self._thread and issubclass(kind, Exception):  # a second Ctrl-C waits for nothing
            self._thread.join(LAST)
            with suppress(HiresError):  # the error that ends the run is the one to tell
                self._raise()

    def save(self, players: Mapping[str, Saved], images: int, info: dict, carried: Carried | None = None) -> Path:
        """Begin a checkpoint of all players and of what the objective carries; returns its path as soon as training may continue.

        Waits first for a save under way. Raises HiresError where that one failed.
        """
        self.join()
        started = time.perf_counter()
        data = self._copy(_tensors(players, self._rank) | _carried(carried or {}))
        steps = {player.name: player.steps() for player in players.values()}
        final = self.folder / reading.folder_name(images)
        manifest = {"format": reading.FORMAT, "images": images, "world_size": self._size, "steps": steps, **info}
        self._thread = threading.Thread(target=self._work, args=(final, data, manifest, started), name="checkpoint", daemon=True)
        self._thread.start()
        return final

    def join(self) -> None:
        """Wait until the save under way is on the disk; raises HiresError, on all ranks alike, where it failed."""
        if self._thread:
            self._thread.join()
            self._raise()

    def poll(self) -> None:
        """Between steps: raises HiresError, on all ranks alike, where the save under way failed by now; waits for no disk. A collective."""
        if self._thread and all(distributed.gather(not self._thread.is_alive())):
            self.join()

    def _raise(self) -> None:
        failure, self._thread, self._failure = self._failure, None, None
        if failure:
            raise failure

    def _copy(self, tensors: dict[str, Tensor]) -> memoryview:
        """The file's bytes, in host memory."""
        header, places, size = layout(tensors)
        if self._host.numel() < size:
            self._host = torch.empty(0)  # let the old one go first
            self._host = torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        self._host[: len(header)].copy_(torch.frombuffer(bytearray(header), dtype=torch.uint8))
        for key, (a, b) in places.items():
            self._host[a:b].view(tensors[key].dtype).copy_(tensors[key].detach().reshape(-1), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return memoryview(self._host.numpy())[:size]

    # ------------------------------------------------------------------------------------------------ in the thread

    def _work(self, final: Path, data: memoryview, manifest: dict, started: float) -> None:
        try:
            self._commit(final, data, manifest)
            self._timed(time.perf_counter() - started)
        except HiresError as error:
            self._failure = error
        except Exception as error:  # join raises it; a thread that dies in silence would lose it
            self._failure = HiresError(f"{final}: checkpoint not written: {type(error).__name__}: {in_words(error)}")

    def _commit(self, final: Path, data: memoryview, manifest: dict) -> None:
        temporary, name = hidden(final, "writing"), f"rank-{self._rank:05d}-of-{self._size:05d}.safetensors"
        try:
            self._together(final, lambda: _make_empty(temporary) if self._rank == 0 else None)
            entries = self._together(final, lambda: write(temporary / name, data))
            self._together(final, lambda: self._publish(temporary, final, manifest | {"files": entries}) if self._rank == 0 else None)
        except HiresError:
            if self._rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)  # a full disk is full because of it
            raise

    def _publish(self, temporary: Path, final: Path, manifest: dict) -> None:
        (temporary / reading.MANIFEST).write_text(reading.manifest_text(manifest), encoding="utf-8")
        fsync(temporary / reading.MANIFEST)
        fsync(temporary)
        self._check()
        old = hidden(final, "replaced")
        if final.exists():  # half a checkpoint, or one of this very moment: out of the way, but not lost before this one is there
            os.rename(final, old)
        os.rename(temporary, final)
        fsync(self.folder)
        self._say(f"saved {final}")
        shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):  # the checkpoint is there; what could not be deleted may go the next time
            retain(self.folder, self._policy)

    def _together(self, final: Path, action: Callable[[], dict | None]) -> list:
        """Do this rank's part and learn how all did: their results; raises HiresError naming the first rank that failed, on all alike."""
        try:
            report: dict[str, Any] = {"done": action()}
        except Exception as error:  # whatever it is, the other ranks wait to hear of it
            told = in_words(error) if isinstance(error, OSError | HiresError) else f"{type(error).__name__}: {error}"
            report = {"failed": told[:300]}
        reports = distributed.gather(report, self._group)
        for rank, one in enumerate(reports):
            if "failed" in one:
                where = f" (rank {rank})" if self._size > 1 else ""
                raise HiresError(f"{final}: checkpoint not written{where}: {one['failed']}; the ones before it are untouched")
        return [one["done"] for one in reports]


def save(folder: Path, players: Mapping[str, Saved], images: int, info: dict) -> Path:
    """Write one checkpoint and wait until it is durable on disk; a collective; returns its path. Nothing else in `folder` is touched."""
    with Saver(folder, Policy(newest=10**9), say=lambda _: None) as saver:
        return saver.save(players, images, info)


def retain(folder: Path, policy: Policy) -> None:
    """Delete the checkpoints that `policy` does not keep."""
    found, measured = {}, {}
    for path in reading.complete(folder):
        with suppress(HiresError):  # what cannot be read is neither counted nor deleted
            manifest = reading.read_manifest(path)
            found[manifest["images"]] = path, manifest["resolution"]
            measured[manifest["images"]] = manifest.get("measured", {})
    kept = policy.kept(((images, resolution) for images, (_, resolution) in found.items()), measured)
    for images, (path, _) in found.items():
        if images not in kept:
            retention.remove(path)


def layout(tensors: dict[str, Tensor]) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """A safetensors file of flattened tensors: its first bytes, where each tensor's lie, from and to, and its size."""
    order = sorted(tensors, key=lambda key: -tensors[key].element_size())  # each begins at a multiple of its element's size
    header, places, end = {}, {}, 0
    for key in order:
        tensor, start = tensors[key], end
        end += tensor.numel() * tensor.element_size()
        header[key] = {"dtype": DTYPES[tensor.dtype], "shape": [tensor.numel()], "data_offsets": [start, end]}
        places[key] = start, end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    first = len(text).to_bytes(8, "little") + text
    return first, {key: (a + len(first), b + len(first)) for key, (a, b) in places.items()}, end + len(first)


def write(path: Path, data: memoryview) -> dict:
    """Write a file, hash it meanwhile, and wait until it is on the disk; returns its entry in the manifest."""
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(lambda: blake3(data).hexdigest())
        with open(path, "wb", buffering=0) as file:
            written = 0
            while written < len(data):
                written += file.write(data[written : written + CHUNK])
            os.fsync(file.fileno())
    return {"name": path.name, "bytes": len(data), "blake3": digest.result()}


def _tensors(players: Mapping[str, Saved], rank: int) -> dict[str, Tensor]:
    """What this rank writes; on rank 0 also the networks' buffers, which are equal on all."""
    tensors = {}
    for player in players.values():
        for f in player.owned():
            for field in FIELDS:
                tensors[f"{player.name}/{f.name}/{field}@{f.start}"] = getattr(f, field)
        if rank == 0:
            for buffer, value in player.network.named_buffers():
                tensors[f"{player.name}/{buffer}/buffer@0"] = value
    return tensors


def _carried(carried: Carried) -> dict[str, Tensor]:
    return {f"carried/{name}/state@{start}": tensor for name, (tensor, start) in carried.items()}


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    new = not folder.parent.exists()
    folder.mkdir(parents=True)
    if new:
        fsync(folder.parent.parent)
