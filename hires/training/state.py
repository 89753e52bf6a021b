"""Checkpoints: a folder that every rank wrote its shard of and that rank 0 committed with a manifest.

State is portable: per player and parameter name the fp32 weight, Adam's two moments and the moving average, cut into whatever stretches
the writing ranks held; per parameter group Adam's step. The same folder serves the same run again, another world size, another ZeRO
stage, the next level and export. Tensors lie in safetensors, the rest in JSON: nothing is ever unpickled.
"""

from collections import defaultdict
from dataclasses import dataclass
import hashlib
import json
import os
from pathlib import Path
import re
import shutil

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor
import torch.distributed as dist

from hires.errors import HiresError
from hires.training import distributed
from hires.training.player import MOMENTS, Player

FORMAT = 1
FIELDS = ("weight", *MOMENTS, "ema")
MANIFEST = "manifest.json"


def folder_name(images: int) -> str:
    """'images-000012345678'."""
    return f"images-{images:012d}"


def save(folder: Path, players: dict[str, Player], images: int, info: dict) -> Path:
    """Write one checkpoint of all players under `folder`, a collective; returns its path once it is durable on disk.

    Shards go to a temporary folder and are fsynced; after all ranks have, rank 0 writes the manifest, renames the folder and fsyncs its
    parent. A folder without a manifest, or with a temporary name, is not a checkpoint.
    """
    final = folder / folder_name(images)
    temporary = folder / f".{final.name}.writing"
    rank, size = dist.get_rank(), dist.get_world_size()
    if rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    name = f"rank-{rank:05d}-of-{size:05d}.safetensors"
    tensors: dict[str, Tensor] = {}
    for player in players.values():
        for f in player.owned():
            for field in FIELDS:
                tensors[f"{player.name}/{f.name}/{field}@{f.start}"] = getattr(f, field).detach().cpu().clone()
        if rank == 0:
            for buffer, value in player.network.named_buffers():
                tensors[f"{player.name}/{buffer}/buffer@0"] = value.detach().cpu().clone().reshape(-1)
    try:
        save_file(tensors, temporary / name)
    except SafetensorError as error:  # a full disk comes as this, not as an OSError
        raise HiresError(f"{final}: checkpoint not written: {error}; the ones before it are untouched") from error
    os.chmod(temporary / name, 0o644)  # safetensors makes files that nobody else on a cluster could read
    _fsync(temporary / name)
    entry = {"name": name, "bytes": (temporary / name).stat().st_size, "sha256": _sha256(temporary / name)}
    entries = distributed.gather(entry)
    steps = {player.name: player.steps() for player in players.values()}
    if rank == 0:
        manifest = {"format": FORMAT, "images": images, "world_size": size, "files": entries, "steps": steps, **info}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        _fsync(temporary / MANIFEST)
        _fsync(temporary)
        if final.exists():  # the same moment, saved before a restart: the new one is whole, so it may take the place
            shutil.rmtree(final)
        os.rename(temporary, final)
        _fsync(folder)
    dist.barrier()
    return final


def complete(folder: Path) -> list[Path]:
    """The checkpoints under `folder` that have a manifest, oldest first."""
    found = [p for p in folder.glob("images-*") if re.fullmatch(r"images-\d{12}", p.name) and (p / MANIFEST).is_file()]
    return sorted(found)


def newest_valid(folder: Path, warn=print) -> Path | None:
    """The newest checkpoint whose files have the sizes and hashes of its manifest; each bad one met is told by `warn` in a line."""
    for path in reversed(complete(folder)):
        problem = verify(path)
        if problem is None:
            return path
        warn(f"checkpoint {path}: {problem}; taking the one before")
    return None


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"format {manifest['format']}, wanted {FORMAT}"
        for entry in manifest["files"]:
            file = path / Path(entry["name"]).name
            if not file.is_file():
                return f"{file.name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{file.name} has {file.stat().st_size} bytes, wanted {entry['bytes']}"
            if _sha256(file) != entry["sha256"]:
                return f"{file.name} does not have the hash it was written with"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable manifest ({error})"
    return None


def retain(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; a failure to delete is not a failure of the run."""
    for path in complete(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class _Stretch:
    start: int
    numel: int
    file: str
    key: str


class Checkpoint:
    """A committed checkpoint, read lazily: any stretch of any tensor, whoever wrote it."""

    def __init__(self, path: Path):
        """Raises HiresError when the folder is not a whole checkpoint."""
        self.path = path
        if not (path / MANIFEST).is_file():
            raise HiresError(f"{path}: no {MANIFEST} in it, so this is not a whole checkpoint")
        try:
            self.manifest = json.loads((path / MANIFEST).read_text())
            self.images = self.manifest["images"]
            self._index: dict[tuple[str, str, str], list[_Stretch]] = defaultdict(list)
            self._files = {}
            for entry in self.manifest["files"]:
                name = Path(entry["name"]).name  # a manifest cannot point outside its folder
                file = safe_open(path / name, framework="pt")
                self._files[name] = file
                for key in file.keys():  # noqa: SIM118 - a safetensors handle is no dictionary
                    player, parameter, place = key.split("/")
                    field, start = place.split("@")
                    self._index[player, parameter, field].append(_Stretch(int(start), file.get_slice(key).get_shape()[0], name, key))
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise HiresError(f"{path}: damaged checkpoint ({error})") from error

    def names(self, player: str, field: str = "weight") -> set[str]:
        """Names of a player's parameters (or, with field='buffer', of its buffers)."""
        return {parameter for p, parameter, f in self._index if p == player and f == field}

    def numel(self, player: str, name: str, field: str = "weight") -> int:
        """Number of elements of a tensor."""
        return sum(s.numel for s in self._index[player, name, field])

    def read(self, player: str, name: str, field: str, start: int, numel: int) -> Tensor:
        """Elements [start, start + numel) of a flattened tensor; raises HiresError where the shards do not cover them."""
        out, covered = None, 0
        for s in self._index[player, name, field]:
            a, b = max(start, s.start), min(start + numel, s.start + s.numel)
            if a < b:
                piece = self._files[s.file].get_slice(s.key)[a - s.start : b - s.start]
                out = torch.empty(numel, dtype=piece.dtype) if out is None else out
                out[a - start : b - start] = piece
                covered += b - a
        if covered != numel:
            raise HiresError(f"{self.path}: {player}'s {name} ({field}) has {covered} of {numel} elements")
        return out

    def load_network(self, network: torch.nn.Module, player: str, field: str = "weight") -> set[str]:
        """Copy `field` ('weight' or 'ema') of every parameter that the checkpoint holds into a network; returns the names it lacks.

        Raises HiresError where a parameter has another size: a checkpoint of another network.
        """
        missing, known = set(), self.names(player)
        state = network.state_dict()
        parameters = {n for n, _ in network.named_parameters()}
        for name in sorted(state):
            kind = field if name in parameters else "buffer"
            if name not in (known if name in parameters else self.names(player, "buffer")):
                missing.add(name)
                continue
            if self.numel(player, name, kind) != state[name].numel():
                raise HiresError(
                    f"{self.path}: {player}'s {name} has {self.numel(player, name, kind)} elements, this network's {state[name].numel()}: "
                    "the checkpoint is of another network (compare network.* with the run's config.yaml)"
                )
            state[name].copy_(self.read(player, name, kind, 0, state[name].numel()).view(state[name].shape))
        if parameters and not (parameters - missing):
            raise HiresError(f"{self.path}: nothing in it belongs to this {player}: the checkpoint is of another network")
        return missing

    def load_optimizer(self, player: Player, moments: bool) -> None:
        """Fill this rank's fragments of a player: exact fp32 weights and moving averages, and Adam's moments and steps where `moments`."""
        known = self.names(player.name)
        for f in player.fragments:
            if f.name not in known:
                continue
            for field in FIELDS if moments else ("weight", "ema"):
                getattr(f, field).copy_(self.read(player.name, f.name, field, f.start, f.numel))
        if moments:
            player.set_steps(self.manifest["steps"][player.name])

    def close(self) -> None:
        """Let the files go."""
        self._files.clear()


def from_first_rank(folder: Path, warn=print) -> Checkpoint | None:
    """The newest valid checkpoint, chosen by rank 0 for all ranks; None where there are none at all.

    Damaged ones that are newer are renamed damaged-…, so that `retain` does not keep them in place of good ones. Raises HiresError where
    all are damaged: beginning again among them would lose what may be rescued.
    """
    choice = None
    if dist.get_rank() == 0:
        found, path = complete(folder), newest_valid(folder, warn)
        choice = str(path) if path else "" if found else None
        for bad in found[found.index(path) + 1 :] if path else []:
            bad.rename(folder / f"damaged-{bad.name}")
    choice = distributed.from_first(choice)
    if choice == "":
        raise HiresError(f"{folder}: none of its checkpoints is whole; mend them, or move the folder away to begin again")
    return Checkpoint(Path(choice)) if choice else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
