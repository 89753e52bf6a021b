"""A folder of pictures: which files are found, what their keys are, and what happens to those that are no pictures."""

import os
from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError
from pipelines.sources.base import safe_key
from pipelines.sources.folder import FolderSource


def save(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (10, 200, 30)).save(file)


def keys(folder: Path) -> list[str]:
    return sorted(item.key for item in FolderSource(str(folder)))


def test_a_folder_is_read_at_any_depth(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a/b/c.webp", "d.bmp", "e.tif", "f.jpeg", ".hidden.jpg", ".git/x.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert keys(tmp_path) == ["a/b/c", "a/z", "b", "d", "e", "f"]
    source = FolderSource(str(tmp_path))
    assert all(source.load(item).size == (8, 8) and item.size == os.path.getsize(item.name) for item in source)


@pytest.mark.parametrize("path", [".", "", "sub/..", "../{}"])
def test_keys_do_not_depend_on_how_the_folder_is_written(tmp_path, path, monkeypatch):
    save(tmp_path / "a" / "b.png")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [item.key for item in FolderSource(path.format(tmp_path.name) or f"{tmp_path}/")] == ["a/b"]


def test_links_are_followed_and_a_link_to_a_folder_above_ends(tmp_path):
    save(tmp_path / "else" / "x.png")
    save(tmp_path / "root" / "y.png")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "else")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    assert keys(tmp_path / "root") == ["linked/x", "y"]


@pytest.mark.parametrize("target", ["gone", "link"])  # or to itself
def test_a_link_that_leads_nowhere_is_named(tmp_path, target, one_line):
    save(tmp_path / "y.png")
    (tmp_path / "x.png").symlink_to("gone.png")  # one bad picture
    source = FolderSource(str(tmp_path))
    assert keys(tmp_path) == ["x", "y"]
    with pytest.raises(DataError) as caught:
        [source.load(item) for item in source if item.key == "x"]
    assert f"{tmp_path / 'x.png'}: cannot be read" in one_line(caught.value)
    (tmp_path / "link").symlink_to(target)  # what may have been a whole folder
    with pytest.raises(DataError) as caught:
        keys(tmp_path)
    assert f"{tmp_path / 'link'}: a link that leads nowhere" in one_line(caught.value)


def test_what_cannot_be_listed_is_named(tmp_path, monkeypatch, one_line):
    save(tmp_path / "a" / "x.png")
    scandir = os.scandir

    def denied(folder):  # as root, no folder's mode is in the way
        if folder.endswith("/a"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError) as caught:
        keys(tmp_path)
    assert f"{tmp_path / 'a'}: cannot be listed (Permission denied)" in one_line(caught.value)


def test_a_pipe_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"x\.jpg: no plain file"):
        keys(tmp_path)


def test_a_name_that_is_not_utf8_is_read(tmp_path):
    save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/b\xfcro.png")
    source = FolderSource(str(tmp_path))
    (item,) = source
    assert source.load(item).size == (8, 8) and item.key == "b\ufffdro"


@pytest.mark.parametrize("name, key", [("a/b.c", "a/b_c"), ("v1.0/x", "v1_0/x"), ("line\nbreak", "line_break"), ("büro 7", "büro 7")])
def test_keys_hold_no_dot_and_no_control_character(name, key):
    assert safe_key(name) == key


@pytest.mark.parametrize(
    "path, found", [("", "no such folder"), ("nowhere", "no such folder"), ("x.txt", "a file"), (".", "no picture found")]
)
def test_a_folder_that_is_missing_or_empty_is_named(tmp_path, path, found, one_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.txt").touch()
    with pytest.raises(DataError) as caught:
        list(FolderSource(path))
    assert f"path={path}: {found}" in one_line(caught.value)


def test_bad_files_are_named_with_what_was_found(tmp_path, one_line):
    save(tmp_path / "whole.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:2000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>404\nnot found</html>")
    source = FolderSource(str(tmp_path))
    found = {}
    for item in source:
        try:
            source.load(item)
        except DataError as error:
            found[item.key] = one_line(error)
            assert str(tmp_path / item.key) in found[item.key]
    assert sorted(found) == ["cut", "empty", "text"]
    assert "2000 bytes" in found["cut"] and "0 bytes" in found["empty"] and "no picture" in found["text"]


def test_pictures_go_by_their_bytes_and_what_is_none_is_counted(tmp_path):
    """As users have them: endings that are rare, wrong, or none."""
    formats = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]
    names = [f"{i}{ending}" for i, ending in enumerate((".jfif", ".jpe", ".gif", "", ".dat", ".v2"))]
    for name, form in zip(names, formats, strict=True):
        Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / name, form)
    for name in ("a.txt", "b.TXT", "Makefile", "c.tar.gz", ".hidden"):
        (tmp_path / name).write_text("BM is how a bitmap begins, and this is none")
    os.mkfifo(tmp_path / "pipe")
    source = FolderSource(str(tmp_path))
    items = {Path(item.name).name: item for item in source}
    assert sorted(items) == sorted(names) and [items[name].key for name in names] == ["0", "1", "2", "3", "4_dat", "5_v2"]
    assert all(source.load(item).size == (8, 8) for item in items.values())
    assert source.left_out == {".txt": 2, "no ending": 2, ".gz": 1, "hidden": 1}
