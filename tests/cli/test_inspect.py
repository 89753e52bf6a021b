"""`hires inspect`: exit status 0 and a table for a healthy data set, 1 and a line for each thing that is wrong."""

import json
from pathlib import Path
import shutil

from PIL import Image
import pytest

from hires import cli


@pytest.fixture
def copy(digits, tmp_path) -> Path:
    """A data set to damage."""
    return shutil.copytree(digits, tmp_path / "copy")


@pytest.fixture
def inspect(capsys):
    """inspect(*overrides) -> exit status, what was printed, what was said on stderr."""

    def run(*overrides: str) -> tuple[int, str, str]:
        status = cli.main(["inspect", "decode=4", *overrides])
        return status, *capsys.readouterr()

    return run


def damage(root: Path) -> Path:
    shard = root / "8" / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    data[512 + 50] ^= 1  # in the first picture's PNG
    shard.write_bytes(data)
    return shard


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_a_healthy_set_ends_well_and_is_described(digits, inspect, tmp_path):
    before = contents(digits)
    status, out, _ = inspect(f"data={digits}")
    assert status == 0 and "verified, no problems" in out and "wrong" not in out
    for words in ("digits", "1,797 to train on, 0 held out", "16x16", "png", "slowest to decode: level", "out=sheet.png draws"):
        assert words in out
    assert contents(digits) == before and not list(tmp_path.iterdir())  # nothing is written unasked


def test_damage_ends_in_1_with_the_shard_and_the_key(copy, inspect):
    shard = damage(copy)
    status, out, _ = inspect(f"data={copy}")
    wrong = [line for line in out.splitlines() if line.startswith("wrong: ")]
    assert status == 1 and len(wrong) == 1 and f"{shard}: " in wrong[0] and "1 of 797 pictures are damaged: " in wrong[0]
    assert "1 problem, listed above" in out and "1 wrong" in out and "no problems" not in out


def test_without_verifying_sizes_still_count_and_nothing_is_promised(copy, inspect):
    damage(copy)
    status, out, _ = inspect(f"data={copy}", "verify=false", "decode=1")
    assert status == 0 and "not verified" in out and "verified, no problems" not in out
    (copy / "4" / "shard-00000.tar").unlink()
    status, out, _ = inspect(f"data={copy}", "verify=false", "decode=1")
    assert status == 1 and f"wrong: {copy}/4/shard-00000.tar: missing" in out


def test_what_is_met_while_decoding_counts_too(copy, inspect):
    shard = damage(copy)
    status, out, _ = inspect(f"data={copy}", "verify=false", "decode=1797")
    assert status == 1 and f"wrong: {shard}: " in out


def test_a_wrong_index_is_told_once_and_accuses_no_picture(copy, inspect):
    index = copy / "index" / "train-8.entries"
    data = bytearray(index.read_bytes())
    data[12] ^= 1  # the first picture's CRC-32
    index.write_bytes(data)
    status, out, _ = inspect(f"data={copy}")
    assert status == 1 and "1 problem, listed above" in out and f"wrong: {index}: " in out


@pytest.mark.parametrize("name", ["index.json", "index/train.keys", "index/train-8.entries", "8/shard-00000.tar"])
def test_whatever_is_lost_is_told_once_and_the_rest_is_shown(copy, inspect, tmp_path, name):
    (copy / name).unlink()
    status, out, _ = inspect(f"data={copy}", f"out={tmp_path}/sheet.png")
    assert status == 1 and "1 problem, listed above" in out and f"wrong: {copy}/{name}: missing" in out
    assert "16x16" in out and Image.open(tmp_path / "sheet.png").size[0] > 500


def test_a_stranger_is_a_remark(copy, inspect):
    (copy / "notes [old].txt").write_text("hello")
    status, out, _ = inspect(f"data={copy}")
    assert status == 0 and f"remark: {copy}/notes [old].txt does not belong" in out


def test_skipped_pictures_are_shown_with_their_reasons(copy, inspect):
    manifest, report = json.loads((copy / "manifest.json").read_text()), json.loads((copy / "report.json").read_text())
    manifest["skipped"] = 5
    report["bad"] = [{"key": str(i), "file": f"{i}.jpg", "reason": f"{i}.jpg: [broken] reason {i}"} for i in range(5)]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "report.json").write_text(json.dumps(report))
    _, out, _ = inspect(f"data={copy}")
    assert all(f"{i}.jpg: [broken] reason {i}" in out for i in range(3)) and "2 more in report.json" in out


def test_an_unfinished_set_is_told_in_one_line(copy, inspect):
    (copy / "manifest.json").unlink()
    status, out, err = inspect(f"data={copy}")
    assert status == 1 and out == "" and len(err.splitlines()) == 1
    assert "not finished: 2 shards with 1,797" in err


@pytest.mark.parametrize("wrong", ["out=sheet.jpg", "decode=0", "workers=-1", "verify=perhaps"])
def test_a_wrong_setting_is_told_before_any_work(digits, inspect, wrong):
    status, out, err = inspect(f"data={digits}", wrong)
    assert status == 1 and out == "" and wrong.split("=")[0] in err and len(err.splitlines()) == 1


def test_an_address_is_verified_only_where_asked(copy, inspect, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    status, out, _ = inspect(f"data=file://{copy}")
    assert status == 0 and "not verified" in out
    damage(copy)
    monkeypatch.setattr("pipelines.fetching.time.sleep", lambda _: None)  # between attempts
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    status, out, _ = inspect(f"data=file://{copy}", "verify=true")
    assert status == 1 and "8/shard-00001.tar" in out
