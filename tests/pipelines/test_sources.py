"""Sources: which files are found, what their keys are, and what happens to those that are no pictures."""

from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from pipelines import DataError
from pipelines.sources import DigitsSource, FolderSource, open_source, safe_key, source_fingerprint


def save(file: Path, suffix: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (10, 200, 30)).save(file, suffix or None)


def test_a_folder_is_read_at_any_depth_in_order_of_key(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a/b/c.webp", "d.bmp", "e.tif", "f.jpeg", ".hidden.jpg", ".git/x.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    source = FolderSource(str(tmp_path))
    assert [item.key for item in source.items] == ["a/b/c", "a/z", "b", "d", "e", "f"]
    assert all(source.load(i).size == (8, 8) for i in range(6))


def test_links_are_followed_and_a_link_to_a_folder_above_ends(tmp_path):
    save(tmp_path / "else" / "x.png")
    save(tmp_path / "root" / "y.png")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "else")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    assert [item.key for item in FolderSource(str(tmp_path / "root")).items] == ["linked/x", "y"]


@pytest.mark.parametrize("pair", [("a.jpg", "a.png"), ("a.b.jpg", "a_b.jpg"), ("x.y/1.jpg", "x_y/1.jpg")])
def test_two_files_with_one_key_are_both_named(tmp_path, pair, one_line):
    for name in pair:
        save(tmp_path / name)
    with pytest.raises(DataError) as caught:
        FolderSource(str(tmp_path))
    assert all(str(tmp_path / name) in one_line(caught.value) for name in pair)


@pytest.mark.parametrize("name, key", [("a/b.c", "a/b_c"), ("v1.0/x", "v1_0/x"), ("line\nbreak", "line_break"), ("büro 7", "büro 7")])
def test_keys_hold_no_dot_and_no_control_character(name, key):
    assert safe_key(name) == key


@pytest.mark.parametrize("path, found", [("", "no such folder"), ("nowhere", "no such folder"), (".", "no picture found")])
def test_a_folder_that_is_missing_or_empty_is_named(tmp_path, path, found, one_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        FolderSource(path)
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
    for i, item in enumerate(source.items):
        try:
            source.load(i)
        except DataError as error:
            found[item.key] = one_line(error)
            assert str(tmp_path / item.key) in found[item.key]
    assert list(found) == ["cut", "empty", "text"]
    assert "2000 bytes" in found["cut"] and "0 bytes" in found["empty"] and "no picture" in found["text"]


def test_digits_are_scikit_learns_scaled_to_bytes():
    from sklearn.datasets import load_digits

    source, images = DigitsSource(), load_digits().images
    assert len(source.items) == 1797 and source.items[0].key == "0000_0"
    assert np.abs(np.asarray(source.load(5)) - images[5] * 255 / 16).max() <= 0.5


def test_an_unknown_source_is_refused():
    with pytest.raises(DataError, match="source=zip: unknown; wanted folder or digits"):
        open_source("zip", "x.zip")


def test_the_fingerprint_follows_names_and_sizes_but_not_the_place(tmp_path):
    for root in ("one", "two"):
        save(tmp_path / root / "a.png")
    same = [source_fingerprint(FolderSource(str(tmp_path / root))) for root in ("one", "two")]
    save(tmp_path / "two" / "b.png")
    assert same[0] == same[1] != source_fingerprint(FolderSource(str(tmp_path / "two")))
