"""Checkpoints as they are read: folders that every rank wrote its shard of and that rank 0 committed with a manifest (writing.py).

State is portable: per player and parameter name the fp32 weight, Adam's two moments and the moving average, cut into whatever stretches
the writing ranks held; per parameter group Adam's step. The same folder serves the same run again, another world size, another ZeRO
stage, the next level, another run's beginning and export. Tensors lie in safetensors, the rest in JSON: nothing is ever unpickled.
Checkpoints are ordered by the images in their names; no clock is asked.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import re

from blake3 import blake3
from safetensors import SafetensorError, safe_open
import torch
from torch import Tensor
import torch.distributed as dist

from hires.checkpoints import retention
from hires.checkpoints.fragments import FIELDS, Restored
from hires.errors import HiresError
from hires.ground import distributed
from hires.ground.outside import Number, parse, problem

FORMAT = 3  # 3: files are hashed by BLAKE3 (SHA-256 took longer than writing them); 2: the manifest holds its own hash
MANIFEST = "manifest.json"
SHAPE = {  # of a manifest; what a reader needs beside, it asks for
    **{"images": int, "files": [{"name": str, "bytes": int, "blake3": str}], "config?": dict, "steps?": dict, "resolution?": int},
    **{"world_size?": int, "fading?": bool, "alpha?": Number, "time?": Number, "measured?": dict, "data?": str, "attempt?": int},
}
HASHING = 4  # files hashed side by side


def folder_name(images: int) -> str:
    """'images-000012345678'."""
    return f"images-{images:012d}"


def complete(folder: Path) -> list[Path]:
    """The checkpoints under `folder` that have a manifest, oldest first."""
    found = [p for p in folder.glob("images-*") if re.fullmatch(r"images-\d{12}", p.name) and (p / MANIFEST).is_file()]
    return sorted(found)


def newest_valid(folder: Path, warn=print) -> Path | None:
    """The newest checkpoint whose files have the sizes and hashes of its manifest; `warn` gets a line about each bad one."""
    for path in reversed(complete(folder)):
        problem = verify(path)
        if problem is None:
            return path
        warn(f"checkpoint {path}: {problem}; taking the one before")
    return None


def manifest_text(manifest: dict) -> str:
    """A manifest as it stands on disk: JSON that holds its own hash, since a digit of it gone wrong would be a wrong run."""
    return json.dumps(manifest | {"sha256": _manifest_hash(manifest)}, indent=1)


def read_manifest(path: Path) -> dict:
    """A checkpoint's manifest; raises HiresError saying in a few words what is wrong with it."""
    try:
        manifest = parse((path / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise HiresError(f"format {manifest['format']}, wanted {FORMAT}")
        if manifest.pop("sha256") != _manifest_hash(manifest):
            raise HiresError(f"{MANIFEST} does not have the hash it was written with")
        if wrong := problem(manifest, SHAPE):
            raise HiresError(f"unreadable manifest ({wrong})")
        for entry in manifest["files"]:
            entry["name"] = Path(entry["name"]).name  # a manifest cannot point outside its folder
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HiresError(f"unreadable manifest ({error})") from error
    return manifest


def verify(path: Path, hashes: bool = True) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None; without `hashes` its files' sizes alone are looked at."""
    try:
        entries = read_manifest(path)["files"]
        for entry in entries:
            file = path / entry["name"]
            if not file.is_file():
                return f"{file.name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{file.name} has {file.stat().st_size} bytes, wanted {entry['bytes']}"
        if hashes:
            with ThreadPoolExecutor(HASHING) as pool:
                for entry, found in zip(entries, pool.map(lambda e: file_hash(path / e["name"]), entries), strict=True):
                    if found != entry["blake3"]:
                        return f"{entry['name']} does not have the hash it was written with"
    except HiresError as error:
        return str(error)
    except (OSError, KeyError, TypeError) as error:
        return f"unreadable ({error})"
    return None


@dataclass(frozen=True)
class _Stretch:
    start: int
    numel: int
    file: str
    key: str


class Checkpoint:
    """A committed checkpoint, read lazily: any stretch of any tensor, whoever wrote it."""

    def __init__(self, path: Path, moments: bool = True):
        """`moments`: whether `load_optimizer` may take Adam's moments from it. Raises HiresError where it is not complete."""
        self.path, self._moments = path, moments
        if not (path / MANIFEST).is_file():
            raise HiresError(f"{path}: no {MANIFEST} in it, so this checkpoint is not complete")
        try:
            self.manifest = read_manifest(path)
            self.images = self.manifest["images"]
            self._index: dict[tuple[str, str, str], list[_Stretch]] = defaultdict(list)
            self._files = {}
            for entry in self.manifest["files"]:
                file = safe_open(path / entry["name"], framework="pt")
                self._files[entry["name"]] = file
                for key in file.keys():  # noqa: SIM118 - a safetensors handle is no dictionary
                    player, parameter, place = key.split("/")
                    field, start = place.split("@")
                    stretch = _Stretch(int(start), file.get_slice(key).get_shape()[0], entry["name"], key)
                    self._index[player, parameter, field].append(stretch)
        except (OSError, ValueError, KeyError, SafetensorError, HiresError) as error:
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

    def load_network(self, network: torch.nn.Module, player: str, field: str = "weight", grown: bool = False) -> None:
        """Copy `field` ('weight' or 'ema') of every parameter, and the buffers, into a network; one that has `grown` keeps what is new.

        Raises HiresError for a checkpoint of another network: a parameter has another size, or is not in it and the network has not grown.
        """
        missing, state = set(), network.state_dict()
        parameters = {n for n, _ in network.named_parameters()}
        held = {kind: self.names(player, kind) for kind in (field, "buffer")}
        for name in sorted(state):
            kind = field if name in parameters else "buffer"
            if name not in held[kind]:
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
        if missing and not grown:
            raise HiresError(f"{self.path}: {player} lacks {', '.join(sorted(missing)[:3])}: the checkpoint is of another network")

    def load_optimizer(self, player: Restored, moments: bool) -> None:
        """Fill this rank's fragments of a player: exact fp32 weights and moving averages, and Adam's moments and steps where `moments`."""
        known, moments = self.names(player.name), moments and self._moments
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
    """The newest valid checkpoint of this run, chosen by rank 0 for all ranks; None where there are none at all.

    What a save that was cut short left is removed. Damaged ones that are newer are renamed damaged-…, so that they are not kept in place
    of good ones. Raises HiresError where all are damaged: beginning again among them would lose what may be rescued.
    """
    choice = None
    if dist.get_rank() == 0:
        retention.tidy(folder, warn)
        found, path = complete(folder), newest_valid(folder, warn)
        choice = str(path) if path else "" if found else None
        for bad in found[found.index(path) + 1 :] if path else []:
            retention.set_aside(bad)
    choice = distributed.from_first(choice)
    if choice == "":
        raise HiresError(f"{folder}: none of its checkpoints is intact; repair them, or move the folder away to start again")
    return Checkpoint(Path(choice)) if choice else None


def of_another_run(place: str, moments: bool, warn=print) -> Checkpoint:
    """A checkpoint folder, or a run's newest valid checkpoint, chosen by rank 0 for all ranks; nothing in there is changed.

    `moments` as in Checkpoint. Raises HiresError where there is none.
    """
    choice = problem = None
    if dist.get_rank() == 0:
        path = Path(place)
        if (path / MANIFEST).is_file():
            choice, problem = str(path), verify(path)
        elif path.is_dir():
            found = newest_valid(path / "checkpoints", warn)
            choice, problem = str(found), None if found else "no complete checkpoint in it"
        else:
            problem = "no such folder; wanted a run's or a checkpoint's"
    choice, problem = distributed.from_first([choice, problem])
    if problem:
        raise HiresError(f"train.start_from={place}: {problem}")
    checkpoint = Checkpoint(Path(choice), moments)
    checkpoint.manifest["attempt"] = 0  # that run's rollbacks are its own
    return checkpoint


def file_hash(path: Path) -> str:
    """BLAKE3 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, blake3).hexdigest()  # type: ignore[arg-type]


def _manifest_hash(manifest: dict) -> str:
    plain = json.loads(json.dumps(manifest))  # as it will be read: keys are text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
