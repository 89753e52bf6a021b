"""What is DALI's alone: how near its JPEG decoder is to Pillow's, its chunks, its failures, and that nothing of it stays behind."""

import gc
import os
from pathlib import Path
import sys

import numpy as np
import pytest
import torch

from pipelines import DataError, Loader, PrepareConfig, Shards, prepare


@pytest.fixture
def dali():
    """DALI, or the reason why the test is skipped."""
    return pytest.importorskip("nvidia.dali", reason="DALI is not installed: pip install 'hires[dali-cuda13]'")


@pytest.fixture(scope="module", params=["jpeg:97:444", "jpeg:97:420"])
def real(request, faces, tmp_path_factory) -> Shards:
    """Four real faces at 4..1024."""
    few, out = tmp_path_factory.mktemp("few"), tmp_path_factory.mktemp("real") / "set"
    for file in sorted(faces.glob("*.jpg"))[:4]:
        (few / file.name).symlink_to(file)
    prepare(PrepareConfig(path=str(few), out=str(out), resolution=1024, codec=request.param, workers=1))
    return Shards.open(out)


@pytest.mark.parametrize("resolution", [1024, 512, 256])
def test_its_jpeg_decoder_is_within_the_stated_tolerance_of_pillows(dali, real, resolution):
    """With CPU operators both use libjpeg-turbo: not a grey level apart, at 4:4:4 and at 4:2:0."""
    if torch.cuda.is_available():
        pytest.skip("the tolerance is stated for DALI's CPU operators, and a GPU decodes here")
    ours, its = (Loader(real, resolution, cache_gb=0, workers=1, kind=kind).read(range(4)).short() for kind in ("pillow", "dali"))
    apart = (ours - its).abs()
    assert apart.max() <= 0 and apart.float().mean() <= 0


def test_a_request_larger_than_a_chunk_is_whole_and_in_order(dali, prepared, monkeypatch):
    monkeypatch.setattr("pipelines.decoders.dali.CHUNK", 4 * 3 * 128 * 128)
    loader = Loader(prepared, 128, cache_gb=0, workers=2, kind="dali")
    wanted = np.random.default_rng(0).permutation(25)
    for _ in range(2):
        assert torch.equal(loader.read(wanted), Loader(prepared, 128, cache_gb=0).read(wanted))


def test_pictures_that_dali_alone_cannot_decode_are_named_with_its_words(dali, prepared, monkeypatch, one_line):
    """An arithmetic-coded JPEG, say; here both get half of each picture, and Pillow is made to be content with it."""
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda *arguments: [data[: len(data) // 2] for data in read(*arguments)])
    monkeypatch.setattr("pipelines.decoders.dali.decode", lambda *arguments: None)
    with pytest.raises(DataError, match=r"DALI cannot decode one of these 2 pictures .*: take loader=pillow") as caught:
        Loader(prepared, 128, cache_gb=0, kind="dali").read([8, 9])
    text, keys = one_line(caught.value), prepared.keys("train")
    assert f"{keys[8]} to {keys[9]}" in text and "Failed to decode" in text and len(text) < 600


def test_pictures_that_are_all_of_another_size_are_named(dali, prepared, monkeypatch):
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, level, *arguments: read(self, 64, *arguments))
    with pytest.raises(DataError, match=r"found 64x64 RGB; wanted a picture of 128x128"):
        Loader(prepared, 128, cache_gb=0, kind="dali").read([8, 9])


def test_nothing_stays_behind_when_levels_come_and_go(dali, prepared):
    def used() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/task")), int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def grow() -> None:
        for resolution in (4, 8, 16, 32, 64, 128):
            loader = Loader(prepared, resolution, cache_gb=0, workers=2, kind="dali")
            stream = loader.stream([np.arange(25)] * 3)
            next(stream)
            stream.close()

    grow()
    threads, memory = used()
    for _ in range(5):
        grow()
    assert used()[0] == threads
    assert used()[1] < memory + 40e6  # thirty pipelines; each batch at 128x128 alone is 1.2 MB


def test_where_dali_is_missing_a_line_says_what_to_install(prepared, monkeypatch, one_line):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(DataError, match=r"pip install 'hires\[dali-cuda13\]', or dali-cuda12") as caught:
        Loader(prepared, 64, kind="dali")
    assert "loader=dali: DALI is not installed" in one_line(caught.value)
