"""Tar shards: keys and pictures as the webdataset package reads them, and damage told with the shard's name."""

import io
from pathlib import Path
import subprocess
import tarfile
import tracemalloc

import numpy as np
from PIL import Image
import pytest
import webdataset

from pipelines import DataError, SplitConfig
from pipelines.listing import write_listing
from pipelines.sources.tar import TarSource

SHARED = Path(__file__).parents[4] / "shared" / "data"


def png(seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, members: dict[str, bytes], **how: int) -> Path:
    with tarfile.open(path, "w", **how) as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def reference(*shards: Path) -> dict[str, np.ndarray]:
    """Key -> picture, by webdataset's reader."""
    samples = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False, empty_check=False)
    return {s["__key__"]: np.asarray(Image.open(io.BytesIO(s.get("png") or s["jpg"]))) for s in samples if {"png", "jpg"} & s.keys()}


def check(path: str, *shards: Path) -> None:
    """The source at `path` holds what webdataset reads from `shards`."""
    source, wanted = TarSource(path), reference(*shards)
    items = list(source)
    assert [item.key for item in items] == list(wanted)
    for item in items:
        assert np.array_equal(source.load(item), wanted[item.key]), item.name


def expect(path: object, one_line, *found: str) -> None:
    with pytest.raises(DataError) as caught:
        list(TarSource(str(path)))
    assert all(text in one_line(caught.value) for text in found), caught.value


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    """Three shards in a folder of their own, written by webdataset's writer, with texts and classes, one of them without a picture."""
    folder = tmp_path / "shards"
    folder.mkdir()
    files = [folder / f"s-{i:02d}.tar" for i in range(3)]
    for n, file in enumerate(files):
        with webdataset.TarWriter(str(file)) as out:
            for i in range(4):
                out.write({"__key__": f"{n}/k{i}", "txt": "a text", "png": png(4 * n + i), "cls": i, "json": {"a": 1}})
            out.write({"__key__": f"{n}/alone", "txt": "no picture"})
    (folder / "index.json").write_text("{}")
    return files


def test_a_shard_a_folder_of_them_and_a_pattern(shards):
    check(str(shards[1]), shards[1])
    check(str(shards[0].parent), *shards)
    check(f"{shards[0].parent}/s-{{00..01}}.tar", *shards[:2])


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_capitals_in_each_format(tmp_path, form):
    names = ["ab.png", "v/b.PNG", f"{'d' * 90}/{'e' * 90}.png", "x.txt", "bü/x y.png"]
    members = {name: b"a text" if name == "x.txt" else png(i) for i, name in enumerate(names)}
    check(str(tmp_path / "a.tar"), write(tmp_path / "a.tar", members, format=form))


def test_pictures_in_folders_as_gnu_tar_packs_them(tmp_path):
    (tmp_path / "in" / "v1.5" / "a").mkdir(parents=True)
    for i, name in enumerate(["v1.5/a/x.png", "y.png", ".hidden.png", "v1.5/._x.png"]):
        (tmp_path / "in" / name).write_bytes(png(i))
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", tmp_path / "in", "."], check=True)
    source = TarSource(str(tmp_path / "a.tar"))
    items = {item.key: item for item in source}
    assert sorted(items) == ["v1_5/a/x", "y"]
    assert np.array_equal(source.load(items["y"]), Image.open(tmp_path / "in" / "y.png"))


def test_real_faces_are_webdatasets():
    file = SHARED / "celebahq512.tar"
    if not file.is_file():
        pytest.skip("the real faces are not here: they lie in ../shared/data/celebahq512.tar")
    source = TarSource(str(file))
    items = list(source)
    with tarfile.open(file) as tar:
        members = [member for member in tar if member.isreg() and member.name.endswith(".jpg")]
    assert [item.key for item in items] == [member.name.removesuffix(".jpg") for member in members] and len(items) == 1200
    samples = webdataset.WebDataset(str(file), shardshuffle=False)
    for item, sample in zip(items[:20], samples, strict=False):
        assert item.key == sample["__key__"] and item.size == len(sample["jpg"])
        assert np.array_equal(source.load(item), Image.open(io.BytesIO(sample["jpg"])))


@pytest.mark.parametrize("second", ["k.jpg", "k.mask.png", "k.png"])
def test_two_pictures_in_one_sample_are_both_named(tmp_path, one_line, second):
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        for name in ("k.png", "k.json", second):
            out.addfile(tarfile.TarInfo(name))
    expect(tmp_path / "a.tar", one_line, str(tmp_path / "a.tar"), "k.png", second, "two pictures in one sample")


def test_a_key_that_comes_again_elsewhere_is_kept(tmp_path):
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, {"k.png": png()})
    assert [item.key for item in TarSource(str(tmp_path))] == ["k", "k"]


def test_a_shard_cut_short_anywhere_is_named(shards, one_line):
    data = shards[1].read_bytes()
    with tarfile.open(shards[1]) as tar:
        end = tar.getmembers()[-1].offset_data + 512
    for cut in (*range(0, end, 512), 100, 700, end - 1, end - 512 - 100):  # at every block, so also between two members
        shards[1].write_bytes(data[:cut])
        expect(shards[0].parent, one_line, str(shards[1]))
    shards[1].write_bytes(data[: data.index(png(4)) + 100])
    expect(shards[0].parent, one_line, f"{shards[1]}: cut short: 1/k0.png has {len(png(4))} bytes")
    shards[1].write_bytes(data[:1024] + b"\1" * 512 + data[1536:])
    expect(shards[0].parent, one_line, str(shards[1]))


def test_a_shard_that_was_cut_since_is_named(shards, one_line):
    source = TarSource(str(shards[0]))
    items = list(source)
    shards[0].write_bytes(shards[0].read_bytes()[:1024])
    with pytest.raises(DataError) as caught:
        source.load(items[-1])
    assert str(shards[0]) in one_line(caught.value) and "k3.png" in str(caught.value)


@pytest.mark.parametrize("packed, program, plain", [("w:gz", "gzip", "a.tar"), ("w:xz", "xz", "a.tar"), ("w:bz2", "bzip2", "a.tar")])
def test_the_command_that_unpacks_is_told_and_works(tmp_path, one_line, packed, program, plain):
    path = tmp_path / f"a.tar.{packed[2:]}"
    with tarfile.open(path, packed) as out:
        info = tarfile.TarInfo("k.png")
        info.size = len(png())
        out.addfile(info, io.BytesIO(png()))
    expect(path, one_line, str(path), f"{program} -dc {path} > {tmp_path / plain}")
    with pytest.raises(DataError) as caught:
        TarSource(str(path))
    subprocess.run(str(caught.value).rpartition("unpack it once: ")[2], shell=True, check=True)
    assert [item.key for item in TarSource(str(tmp_path / plain))] == ["k"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_to_a_picture_is_named(tmp_path, one_line, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        info = tarfile.TarInfo("k.png")
        info.type, info.linkname = kind, "else.png"
        out.addfile(info)
    expect(tmp_path / "a.tar", one_line, "a.tar: k.png: a link to else.png")


@pytest.mark.parametrize(
    "path, found",
    [
        ("gone.tar", "not there"),
        (".", "no file in it ends in .tar"),
        ("s-{0..1}.tar", "s-0.tar: missing"),
        ("s-{0..1.tar", "wanted one .tar"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, monkeypatch, one_line, path, found):
    monkeypatch.chdir(tmp_path)
    expect(path, one_line, path if "missing" not in found else "s-0.tar", found)


def test_a_tar_of_no_pictures_and_one_that_is_none(tmp_path, one_line):
    expect(write(tmp_path / "a.tar", {"x.txt": b"x"}), one_line, "a.tar: no picture in it")
    (tmp_path / "b.tar").write_text("<html>404</html>" * 100)
    expect(tmp_path / "b.tar", one_line, "b.tar: no tar")


def test_members_that_went_by_are_not_held(tmp_path):
    path = write(tmp_path / "a.tar", {f"{i}.png": b"" for i in range(4000)})
    list(TarSource(str(path)))
    tracemalloc.start()
    try:
        count = sum(1 for _ in TarSource(str(path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4000 and peak < 500_000  # tarfile by itself holds 3.5 MB of members


def test_a_sample_without_a_pictures_name_goes_by_its_bytes(tmp_path):
    members = {"a.png": png(0), "a.mask": png(1), "b.img": png(2), "b.cls": b"3", "c": png(3), "d.txt": b"a text", ".e.png": png(4)}
    source = TarSource(str(write(tmp_path / "a.tar", members)))
    assert [item.name.rpartition(" ")[2] for item in source] == ["a.png", "b.img", "c"]
    assert source.left_out == {".mask": 1, ".cls": 1, ".txt": 1, "hidden": 1}


def test_keys_that_begin_anew_in_each_shard_take_its_name(tmp_path, one_line):
    (tmp_path / "in").mkdir()
    (tmp_path / "scratch").mkdir()
    for n, name in enumerate(["s-0.tar", "s-1.TAR", "notes.txt"]):
        write(tmp_path / "in" / name, {f"{i:03d}.png": png(3 * n + i) for i in range(3)})

    def listed(on_error: str):
        source = TarSource(str(tmp_path / "in"))
        found = write_listing(source, tmp_path / "scratch", SplitConfig(), 10, on_error)
        return source, found, found.items(found.shards[0])

    source, found, items = listed("fail")
    assert [item.key for item in items] == [f"s-{n}/{i:03d}" for n in (0, 1) for i in range(3)]
    assert found.shard_in_key and found.left_out == {".txt": 1} and not found.repeated
    assert all(np.array_equal(source.load(item), Image.open(io.BytesIO(png(i)))) for i, item in enumerate(items))
    write(tmp_path / "in" / "s-2.tar", {"x.png": png(0), "y.png": png(1), "./x.png": png(2)})  # a key twice in one shard is another matter
    with pytest.raises(DataError, match="would get the key 's-2/x'"):
        listed("fail")
    for name in ("s-0.tar", "s-1.TAR"):
        (tmp_path / "in" / name).unlink()
    _, found, items = listed("skip")
    assert [item.key for item in items] == ["x", "y"] and len(found.repeated) == 1
