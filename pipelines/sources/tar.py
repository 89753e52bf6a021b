"""Tar files of pictures: webdataset's shards, or plain ones."""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import groupby
import os
from pathlib import Path
import re
import shlex
import tarfile

from PIL import Image

from ..errors import DataError
from .archives import is_hidden, open_at, read_at, relative
from .base import FORMATS, MAGIC, START, SUFFIXES, Item, Source, decode_picture, left_out_as, safe_key

NAME = re.compile(r"(.+)\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst))", re.IGNORECASE | re.DOTALL)
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # by how a file starts
END = bytes(tarfile.BLOCKSIZE)
WANTED = "wanted one .tar, a folder of them, or a pattern such as x-{00..09}.tar"


class TarSource(Source):
    """Pictures in one .tar, in a folder of .tar files, or in those of a brace pattern (shards-{00000..00009}.tar).

    As in webdataset, the key of a member is its path up to the first dot of the file's name, and members with one key, one after another,
    are one sample; its picture is the one whose name ends as a picture's, or where there is none the one whose bytes begin so. The rest
    (txt, json, cls) is left out, hidden files too. Where keys begin anew in each shard, the shard's name goes before them. Listing reads
    the headers, and `load` one range of bytes.
    """

    def __init__(self, path: str):
        """Raises DataError if there is no such file, or one is compressed."""
        self.path, self.files = path, _files(path)
        for file in self.files:
            _refuse_packed(file)

    def __iter__(self) -> Iterator[Item]:
        found, self.left_out = False, _beside(self.path, self.files)
        for file in self.files:
            stamp, before, prefix = os.stat(file).st_mtime_ns, None, self._prefix(file)
            for _, sample in groupby(_shown(file, self.left_out), lambda member: _key(member.name)):
                for member in _pictures(file, list(sample), self.left_out):
                    item = _item(file, member, stamp, prefix)
                    if before and before.key == item.key:
                        raise DataError(f"{item.name} and {before.name.removeprefix(f'{file}: ')}: two pictures in one sample; wanted one")
                    yield item
                    before, found = item, True
        if not found:
            raise DataError(f"path={self.path}: no picture in it; wanted {', '.join(FORMATS)}")

    def tell_apart(self, first: Item, second: Item) -> bool:
        if self.shard_in_key or first.place[0] == second.place[0]:
            return False
        self.shard_in_key = True
        return True

    def _prefix(self, file: str) -> str:
        """What goes before the keys of a shard: its path from the folder of all, without .tar."""
        if not self.shard_in_key:
            return ""
        above = os.path.commonpath([os.path.dirname(os.path.abspath(one)) for one in self.files])
        return re.sub(r"\.tar$", "", os.path.relpath(os.path.abspath(file), above), flags=re.IGNORECASE) + "/"

    def load(self, item: Item) -> Image.Image:
        file, offset, size = item.place
        handle = open_at(file)  # and not kept: there may be more shards than files that a process may have open
        try:
            data = read_at(handle, offset, size, item)
        finally:
            os.close(handle)
        return decode_picture(data, item.name)


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        found = sorted(file.name for file in Path(path).iterdir() if NAME.fullmatch(file.name) and not file.name.startswith("."))
        if not found:
            raise DataError(f"path={path}: no file in it ends in .tar; {WANTED}")
        return [os.path.join(path, name) for name in found]
    if "{" not in path:
        raise DataError(f"path={path}: not there; {WANTED}")
    try:
        from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]
    except ImportError as error:
        raise DataError("patterns need the package braceexpand, not installed: pip install 'hires[sources]'") from error
    try:
        files = list(braceexpand(path))
    except UnbalancedBracesError as error:
        raise DataError(f"path={path}: {error}; {WANTED}") from error
    for file in files:
        if not os.path.isfile(file):
            raise DataError(f"{file}: missing; wanted all {len(files)} files of path={path}")
    return files


def _refuse_packed(file: str) -> None:
    try:
        with open(file, "rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    for magic, program in PACKED.items():
        if start.startswith(magic):
            match = NAME.fullmatch(file)
            plain = f"{match[1]}.tar" if match and not file.lower().endswith(".tar") else f"{file}.plain.tar"
            command = f"{program} -dc {shlex.quote(file)} > {shlex.quote(plain)}"
            raise DataError(f"{file}: compressed, so that its pictures cannot be read where they lie; unpack it once: {command}")


def _members(file: str) -> Iterator[tarfile.TarInfo]:
    """All members but folders, one at a time."""
    try:
        with tarfile.open(file, "r:") as tar:
            end = os.path.getsize(file)
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # where tarfile remembers them all
                if member.size < 0 or member.offset_data + member.size > end:
                    raise DataError(f"{file}: cut short: {member.name} has {member.size} bytes, and the file ends at byte {end}")
                if not member.isdir():
                    yield member
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(len(END)) != END:  # tarfile takes this for the end and says nothing
                raise DataError(f"{file}: cut short or damaged at byte {tar.offset}; wanted a member's header or a tar's end (zeros)")
    except tarfile.TarError as error:
        raise DataError(f"{file}: no tar, or cut short or damaged ({error})") from error
    except (OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as a tar ({error})") from error


def _beside(path: str, files: list[str]) -> Counter[str]:
    """What else lies in a folder of shards."""
    with os.scandir(path) if os.path.isdir(path) else nullcontext(()) as entries:
        others = [entry for entry in entries if os.path.join(path, entry.name) not in files]
    return Counter("folder" if entry.is_dir() else left_out_as(entry.name) for entry in others)


def _shown(file: str, left_out: Counter[str]) -> Iterator[tarfile.TarInfo]:
    for member in _members(file):
        if is_hidden(member.name):
            left_out["hidden"] += 1
        else:
            yield member


def _pictures(file: str, sample: list[tarfile.TarInfo], left_out: Counter[str]) -> list[tarfile.TarInfo]:
    """The pictures of a sample, of which there should be one; the rest is counted."""
    found = [member for member in sample if member.name.lower().endswith(SUFFIXES)]
    if not found:
        handle = open_at(file)
        try:
            found = [one for one in sample if one.isreg() and not one.issparse() and MAGIC.match(os.pread(handle, START, one.offset_data))]
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        finally:
            os.close(handle)
    left_out.update(left_out_as(member.name) for member in sample if member not in found)
    return found


def _key(name: str) -> str:
    folder, _, base = relative(name).rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _item(file: str, member: tarfile.TarInfo, stamp: int, prefix: str) -> Item:
    name = f"{file}: {member.name}"
    if not member.isreg() or member.issparse():
        kind = f"a link to {member.linkname}" if member.islnk() or member.issym() else "no plain file, or a sparse one"
        raise DataError(f"{name}: {kind}; wanted the picture's bytes (GNU tar: --dereference --hard-dereference, without --sparse)")
    return Item(safe_key(prefix + _key(member.name)), name, member.size, stamp, (file, member.offset_data, member.size))
