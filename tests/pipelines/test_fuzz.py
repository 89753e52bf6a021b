"""Damaged bytes end in one line or in the right pictures: a sample of benchmarks/fuzz.py, another one with each commit."""

import gzip
import importlib.util
import os
from pathlib import Path
import subprocess
import tarfile
import tracemalloc

import numpy as np
import pytest

from pipelines import DataError, Shards
from pipelines.claiming import SETTINGS, refuse_unfinished
from pipelines.sources import open_source
from pipelines.sources.archives import read_at
from pipelines.sources.base import Item
from pipelines.sources.cifar10 import PER_BATCH, _labels
from pipelines.writing import WORK

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("fuzz", ROOT / "benchmarks" / "fuzz.py")
fuzz = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz)
CASES = 30


@pytest.fixture(scope="module")
def first() -> int:
    """Of the sample's numbers."""
    said = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    return int(said[:8] or "0", 16) // 100 * 100


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_input(kind, first, monkeypatch):
    monkeypatch.setattr(fuzz.cifar10, "PER_BATCH", 4)
    found = []
    fuzz.fuzz(kind, range(first, first + CASES), lambda number, fault: found.append(f"--kinds {kind} --first {number} --cases 1: {fault}"))
    assert not found


def test_the_watch_sees_each_kind_of_fault(monkeypatch, tmp_path):
    """Or the above would prove nothing."""

    def read(folder: Path):
        number = next(reads)
        match number:
            case 1:
                raise KeyError("a bug")
            case 2:
                while True:
                    pass
            case 3:
                os.kill(os.getpid(), 9)
            case 4:
                (folder.parent / "made").touch()
            case 5:
                yield "x", np.zeros(2)
            case 6:
                yield "x", np.ones(3 * 10**7)
        yield "x", np.ones(1)

    reads = iter([0])  # the valid input
    monkeypatch.setattr(fuzz, "HANG", 1.0)
    monkeypatch.setattr(fuzz, "MEMORY", 1e8)
    monkeypatch.setitem(fuzz.KINDS, "mine", fuzz.Kind(lambda folder: (folder / "a").write_text("abc"), read, True))
    found = {}
    real = fuzz.run_case

    def case(kind, number, *rest):
        nonlocal reads
        reads = iter([number])
        return real(kind, number, *rest)

    monkeypatch.setattr(fuzz, "run_case", case)
    fuzz.fuzz("mine", range(7), lambda number, fault: found.setdefault(number, fault.split(":")[0]))
    assert found == {1: "traceback", 2: "hang", 3: "died", 4: "outside", 5: "wrong", 6: "memory"}


def nested(depth: int) -> bytes:
    """A pickled tuple of twice a tuple of twice … nothing, which takes 2^depth steps to hash or to write out."""
    return b")q\x00" + b"h\x00h\x00\x86q\x00" * depth


@pytest.mark.timeout(30)
@pytest.mark.parametrize("pickled", [b"\x80\x02}" + nested(60) + b"K\x01s.", b"\x80\x02](" + nested(60) + b"e."], ids=["key", "label"])
def test_a_pickle_that_takes_for_ever_is_refused_at_once(tmp_path, pickled):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickled)
    with pytest.raises(DataError, match="data_batch_1: "):
        open_source("cifar10", str(tmp_path))
    with pytest.raises(DataError, match="a label is no number"):
        _labels(tmp_path, [((),)] * PER_BATCH)


def _headers_without_end(path: Path) -> None:
    """A tar whose one member has 3,000 headers before its own."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 0
    path.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) * 3000 + tarfile.TarInfo("a.png").tobuf() + bytes(1024))


def _large_header(path: Path) -> None:
    """A tar whose header says that 8 GB of names follow."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 8**11 - 1
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))


@pytest.mark.parametrize("write", [_headers_without_end, _large_header])
def test_a_tar_whose_headers_ask_for_too_much_is_told(tmp_path, write):
    write(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar: "):
        for item in (source := open_source("webdataset", str(tmp_path / "a.tar"))):
            source.load(item)


def test_what_a_file_does_not_hold_takes_no_memory(tmp_path):
    """A gzip of 64 MB of zeros behind a small picture; and an entry of an lmdb that says it has four."""
    head = bytes((0, 0, 8, 3)) + np.array([1, 4, 4], ">i4").tobytes()
    with gzip.open(tmp_path / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(64):
            file.write(bytes(1 << 20))
    (tmp_path / "value").write_bytes(b"small")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="wanted 16"):
            open_source("idx", str(tmp_path))
        handle = os.open(tmp_path / "value", os.O_RDONLY)
        with pytest.raises(DataError, match="ends after 5 of its 4294967295 bytes"):
            read_at(handle, 0, 2**32 - 1, Item("key", "name"))
        os.close(handle)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_manifest_that_is_nested_too_deeply_is_told(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 5000 + "]" * 5000)
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read \(nested too deeply\)"):
        Shards.open(tmp_path)


@pytest.mark.parametrize("left", ["", "[1]", "{", "[" * 5000])
def test_settings_of_an_unfinished_set_that_a_crash_emptied(tmp_path, left):
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / SETTINGS).write_text(left)
    with pytest.raises(DataError, match="cannot be read"):
        refuse_unfinished(tmp_path, {"allow_upscale": False})
