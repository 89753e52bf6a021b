"""A disk that fills while a run saves ends it in one line, and what was whole before stays."""

import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 96 kB: too little for one checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this user cannot mount a small file system: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_checkpoint_that_finds_no_room_is_told_in_one_line(hires, tiny, small_disk):
    done = hires("train", *tiny, f"run={small_disk}/run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hires train: error:") and "No space left" in last
    assert not list(small_disk.glob("run/checkpoints/images-*"))
