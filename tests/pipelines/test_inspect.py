"""Whatever is wrong with a prepared data set is named, with the shard and the key, and a healthy one is not accused of anything."""

import fcntl
import hashlib
import io
import json
import os
from pathlib import Path
import shutil
import tarfile

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError, PrepareConfig, Shards, SplitConfig, prepare
from pipelines.contact_sheet import CELL, GAP, HEAD, LABEL, MARGIN, contact_sheet
from pipelines.decode_rate import decode_rate
from pipelines.inspecting import key_problems, strangers, verify
from pipelines.opening import open_to_inspect


@pytest.fixture
def copy(prepared, tmp_path) -> Path:
    """A data set to damage."""
    return shutil.copytree(Path(prepared.root), tmp_path / "copy")


def problems(root: Path) -> list[str]:
    return verify(open_to_inspect(str(root)))


def one(root: Path) -> str:
    found = problems(root)
    assert len(found) == 1 and "\n" not in found[0], found
    return found[0]


def flip(file: Path, place: int, bit: int = 1) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= bit
    file.write_bytes(data)


def member(file: Path, number: int) -> tarfile.TarInfo:
    with tarfile.open(file) as tar:
        return tar.getmembers()[number]


def rewrite(root: Path, name: str, text: bytes) -> None:
    """Replaces a file of the index and every hash of it, as a wrong writer would have written it."""
    (root / name).write_bytes(text)
    index, manifest = json.loads((root / "index.json").read_text()), json.loads((root / "manifest.json").read_text())
    index["files"][name] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    whole = json.dumps(index).encode()
    (root / "index.json").write_bytes(whole)
    manifest["index"] = {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_nothing_is_wrong_with_a_healthy_set_and_every_byte_is_read(prepared):
    seen = []
    assert verify(prepared, 2, seen.append) == [] and strangers(prepared) == []
    ours = [name for name, *_ in prepared.contents() if name != "index.json"]
    assert sum(seen) == sum((Path(prepared.root) / name).stat().st_size for name in ours)


def test_a_flipped_bit_in_a_jpeg_that_still_decodes_is_found_and_its_key_named(copy, prepared):
    shard = copy / "128" / "shard-00001.tar"
    found = member(shard, 3)
    before = shard.read_bytes()
    for place in range(found.offset_data + found.size // 2, found.offset_data + found.size):  # a bit that the decoder swallows
        shard.write_bytes(before)
        flip(shard, place)
        try:
            data = shard.read_bytes()[found.offset_data : found.offset_data + found.size]
            pixels = np.asarray(Image.open(io.BytesIO(data)))
        except OSError:
            continue
        break
    assert pixels.shape == (128, 128, 3)
    line = one(copy)
    assert line.startswith(f"{shard}: ") and f"1 of 7 pictures are damaged: {found.name.removesuffix('.jpg')};" in line
    assert f"delete {shard} and run hires prepare again" in line


def test_many_damaged_pictures_are_counted_and_the_first_named(copy, prepared):
    shard = copy / "64" / "shard-00000.tar"
    for number in range(7):
        flip(shard, member(shard, number).offset_data + 60)
    keys = prepared.keys("train")
    assert f"7 of 7 pictures are damaged: {', '.join(keys[:5])} and 2 more" in one(copy)


def test_damage_around_the_pictures_is_told_apart(copy):
    shard = copy / "64" / "shard-00002.tar"
    flip(shard, member(shard, 2).offset)  # the first letter of a name: pictures are whole, tar readers are misled
    assert "none of its 7 pictures is hurt" in one(copy) and "tar's own headers" in one(copy)


def test_damaged_padding_hurts_no_picture_either(copy):
    flip(copy / "64" / "shard-00002.tar", -1)
    assert "none of its 7 pictures is hurt" in one(copy)


def test_of_a_shard_cut_short_what_is_left_is_told(copy, prepared):
    shard = copy / "128" / "shard-00001.tar"
    os.truncate(shard, member(shard, 4).offset_data + 100)
    line = one(copy)
    assert line.startswith(f"{shard}: ") and f"4 of 7 pictures are left, the first lost {prepared.keys('train')[7 + 4]};" in line


def test_a_lost_shard_is_named(copy):
    (copy / "32" / "holdout-00000.tar").unlink()
    assert one(copy) == f"{copy}/32/holdout-00000.tar: missing, 5 pictures; run hires prepare again"


def test_a_lost_level_is_one_line(copy):
    shutil.rmtree(copy / "4")
    assert one(copy) == f"{copy}/4: the level is missing, all 5 shards; run hires prepare again"


@pytest.mark.parametrize("name", ["index.json", "index/train-64.entries", "index/holdout-4.entries", "index/train.keys"])
def test_a_damaged_index_is_named_and_no_shard_is_accused(copy, name):
    flip(copy / name, 5)
    assert one(copy).startswith(f"{copy}/{name}: ") and "sha256" in one(copy)


@pytest.mark.parametrize("name", ["index.json", "index/train-64.entries", "index/holdout.keys"])
def test_a_lost_index_is_named(copy, name):
    (copy / name).unlink()
    assert one(copy).startswith(f"{copy}/{name}: missing")


def test_without_its_index_a_damaged_shard_is_still_named(copy):
    (copy / "index" / "train.keys").unlink()
    flip(copy / "64" / "shard-00000.tar", 700)
    assert any(line.startswith(f"{copy}/64/shard-00000.tar: ") and "is not known without its index" in line for line in problems(copy))


@pytest.mark.parametrize("damage", ["shard", "short", "gone", "index"])
def test_what_is_advised_mends_the_set(copy, photos, damage):
    shard = copy / "64" / "shard-00001.tar"
    {
        "shard": lambda: flip(shard, member(shard, 2).offset_data + 80),
        "short": lambda: os.truncate(shard, 3000),
        "gone": shard.unlink,
        "index": lambda: flip(copy / "index" / "train-64.entries", 5),
    }[damage]()
    advice = one(copy).rpartition("; ")[2]
    if advice.startswith("delete "):
        Path(advice.removeprefix("delete ").removesuffix(" and run hires prepare again")).unlink()
    else:
        assert advice == "run hires prepare again"
    prepare(PrepareConfig(path=str(photos), out=str(copy), resolution=128, images_per_shard=7, split=SplitConfig(holdout=5), workers=1))
    assert problems(copy) == []


def test_a_copy_without_ledgers_is_to_be_copied_again(copy):
    shutil.rmtree(copy / ".prepare")
    (copy / "32" / "holdout-00000.tar").unlink()
    assert one(copy).endswith("copy it again from where the data set came from")


def test_tar_members_that_do_not_agree_with_the_index_are_found_though_hashes_fit(copy, prepared):
    keys = prepared.keys("train")
    changed = [*keys[:2], keys[2] + "x", *keys[3:]]
    rewrite(copy, "index/train.keys", "".join(key + "\n" for key in changed).encode())
    line = one(copy)
    assert line.startswith(f"{copy}/4/shard-00000.tar: as it was written, but") and f"{keys[2]}.png" in line and f"{keys[2]}x.png" in line


def test_offsets_that_do_not_agree_with_the_tar_are_found(copy, prepared):
    entries = prepared.entries(4, "train").copy()
    entries["offset"][8] += 512
    rewrite(copy, "index/train-4.entries", entries.tobytes())
    assert one(copy).startswith(f"{copy}/4/shard-00001.tar: as it was written, but")


@pytest.mark.parametrize(("change", "words"), [("swap", "in order"), ("twice", "each key once"), ("fewer", "24 keys; wanted 25")])
def test_keys_that_are_not_one_each_in_order_are_found(copy, prepared, change, words):
    keys = prepared.keys("train")
    keys = {"swap": [keys[1], keys[0], *keys[2:]], "twice": [keys[0], keys[0], *keys[2:]], "fewer": keys[:-1]}[change]
    rewrite(copy, "index/train.keys", "".join(key + "\n" for key in keys).encode())
    (line,) = key_problems(open_to_inspect(str(copy)))
    assert f"{copy}/index/train.keys: " in line and words in line


def test_a_held_out_picture_that_is_trained_on_is_found(copy, prepared):
    held, keys = prepared.keys("holdout")[2], prepared.keys("train")
    rewrite(copy, "index/train.keys", "".join(key + "\n" for key in sorted([held, *keys[1:]])).encode())
    (line,) = key_problems(open_to_inspect(str(copy)))
    assert f"'{held}' is both held out and trained on" in line


def test_files_that_do_not_belong_are_remarked_upon_but_are_no_error(copy):
    for name in ("notes.txt", "64/old.tar", "mine/more.tar"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("hello")
    assert strangers(open_to_inspect(str(copy))) == ["64/old.tar", "mine/more.tar", "notes.txt"] and problems(copy) == []


def test_of_an_unfinished_set_how_far_it_got_is_told(fill, tmp_path, one_line):
    photos, out = fill(tmp_path / "photos", 9), tmp_path / "set"
    (photos / "z.jpg").write_bytes(b"no picture")  # the last key, at which preparing stops
    with pytest.raises(DataError, match=r"z\.jpg"):
        prepare(PrepareConfig(path=str(photos), out=str(out), resolution=4, images_per_shard=3, workers=1))
    with pytest.raises(DataError) as caught:
        open_to_inspect(str(out))
    assert "not finished: 3 shards with 9 of 10 pictures are there; run the same hires prepare again" in one_line(caught.value)


def test_a_set_that_is_being_written_is_told_as_such(copy, one_line):
    (copy / "manifest.json").unlink()
    with (copy / ".prepare" / "lock").open("w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        with pytest.raises(DataError) as caught:
            open_to_inspect(str(copy))
    assert "hires prepare is writing there now" in one_line(caught.value)


def test_a_folder_that_is_no_data_set_is_told_as_such(tmp_path, one_line):
    with pytest.raises(DataError) as caught:
        open_to_inspect(str(tmp_path))
    assert "not a data set" in one_line(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.pop("mean"), "has no mean"),
        (lambda m: m["counts"].update(train=24), "24 pictures in train, but 25 in its shards"),
        (lambda m: m["shards"]["train"][0].update(name="../x"), "a shard '../x'"),
        (lambda m: m["shards"]["train"][0].pop("images"), "images"),
        (lambda m: m.update(shards=[]), "not laid out"),
        (lambda m: m.update(format=1), "format 1; wanted format 2"),
    ],
)
def test_a_manifest_that_cannot_be_is_named(copy, change, words, one_line):
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError) as caught:
        open_to_inspect(str(copy))
    assert f"{copy}/manifest.json: " in one_line(caught.value) and words in str(caught.value)


def test_a_rate_is_measured_and_what_cannot_be_read_is_named(copy, prepared):
    assert decode_rate(prepared, 128, 4)[0] > 0 and decode_rate(prepared, 128, 100)[1] == []
    shard = copy / "128" / "shard-00000.tar"
    flip(shard, member(shard, 6).offset_data + 60)
    rate, wrong = decode_rate(open_to_inspect(str(copy)), 128, 25)
    assert rate > 0 and len(wrong) == 1 and f"{shard}: {prepared.keys('train')[6]}: " in wrong[0]
    shutil.rmtree(copy / "128")
    rate, wrong = decode_rate(open_to_inspect(str(copy)), 128, 25)
    assert rate == 0 and f"{shard}: cannot be opened" in wrong[0]


def _cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    x, y = MARGIN + LABEL + column * (CELL + GAP), MARGIN + HEAD + row * (CELL + GAP)
    return np.asarray(sheet.crop((x, y, x + CELL, y + CELL)))


def test_the_sheet_shows_the_same_pictures_at_every_level(prepared):
    sheet = contact_sheet(prepared, 3)
    for row, level in enumerate(prepared.levels):
        for column, index in enumerate((0, 12, 24)):
            pixels = np.asarray(Image.open(io.BytesIO(prepared.read(level, "train", [index])[0])))
            scale = CELL // level
            assert np.array_equal(_cell(sheet, row, column), pixels.repeat(scale, 0).repeat(scale, 1))


def test_a_damaged_picture_is_a_crossed_out_cell(copy):
    shard = copy / "64" / "shard-00000.tar"
    flip(shard, member(shard, 0).offset_data + 60)
    (copy / "index" / "holdout.keys").unlink()
    sheet = contact_sheet(open_to_inspect(str(copy)), 3)
    assert tuple(_cell(sheet, 4, 0)[10, CELL // 2]) == (232, 224, 224)


def test_real_faces_are_whole_and_a_damaged_one_is_named(faces, tmp_path):
    some = tmp_path / "faces"
    some.mkdir()
    for file in sorted(faces.glob("*.jpg"))[:4]:
        shutil.copy(file, some)
    prepare(PrepareConfig(path=str(some), out=str(tmp_path / "set"), resolution=1024, split=SplitConfig(holdout=1), workers=1))
    assert problems(tmp_path / "set") == []
    shard = tmp_path / "set" / "1024" / "holdout-00000.tar"
    flip(shard, member(shard, 0).offset_data + 50_000)
    (key,) = Shards.open(tmp_path / "set").keys("holdout")
    assert f"1 of 1 pictures are damaged: {key};" in one(tmp_path / "set")
