"""`prepare`: the same bytes whoever makes them and however often they are killed, bad pictures named, nothing overwritten."""

from collections.abc import Callable
from dataclasses import replace
import fcntl
import io
import json
import multiprocessing
import os
from pathlib import Path
import shutil
import signal
import sys
import tarfile
import time

import numpy as np
from PIL import Image
import pytest
import webdataset

from pipelines import DataError, PrepareConfig, Shards, SplitConfig, finishing, prepare
from pipelines.codecs import decode
from pipelines.pyramid import pyramid, square
from pipelines.writing import Tar, write_whole

SET = {"resolution": 128, "images_per_shard": 7, "split": SplitConfig(holdout=5)}


@pytest.fixture
def config(photos, tmp_path) -> PrepareConfig:
    """30 pictures to 4..128, 7 a shard."""
    return PrepareConfig(**SET, path=str(photos), out=str(tmp_path / "set"), workers=2)


def add_bad_pictures(folder: Path, draw: Callable) -> list[str]:
    """One of each kind of what users have in their folders; the names."""
    whole = (folder / "a" / "000.jpg").read_bytes()
    (folder / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "a" / "empty.png").touch()
    (folder / "b" / "page.jpg").write_text("<html>not found</html>")
    Image.fromarray(draw(0, 3, 1)).save(folder / "b" / "tiny.png")
    return ["a/cut.jpg", "a/empty.png", "b/page.jpg", "b/tiny.png"]


def test_the_bytes_do_not_depend_on_the_number_of_workers(config, prepared, hashes):
    prepare(config)
    assert hashes(Path(config.out)) == hashes(Path(prepared.root))


def test_a_shard_is_what_tarfile_would_have_written(tmp_path):
    members = {"a.png": b"1", "empty.png": b"", "block.png": bytes(512), f"{'long' * 60}.png": bytes(700), "ä.png": b"x" * 20_000}
    with Tar(tmp_path / "ours.tar") as ours, tarfile.open(tmp_path / "its.tar", "w", format=tarfile.GNU_FORMAT) as its:
        for name, data in members.items():
            ours.add(name, data)
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o444
            its.addfile(member, io.BytesIO(data))
    whole = (tmp_path / "ours.tar").read_bytes()
    assert whole == (tmp_path / "its.tar").read_bytes()
    assert [whole[at : at + size] for at, size, _ in ours.entries] == list(members.values())


def test_all_levels_hold_the_same_keys_in_the_same_order_and_webdataset_reads_them(prepared):
    for split, name in (("train", "shard"), ("holdout", "holdout")):
        for level in prepared.levels:
            files = sorted(map(str, (Path(prepared.root) / str(level)).glob(f"{name}-*.tar")))
            read = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode("rgb8"))
            assert [sample["__key__"] for sample in read] == prepared.keys(split)
            assert {sample["jpg" if level > 64 else "png"].shape for sample in read} == {(level, level, 3)}


def test_every_level_is_the_exact_pyramid_of_the_picture(photos, prepared):
    for number, key in enumerate(prepared.keys("train")[:3]):
        top = square(Image.open(photos / f"{key}.jpg"), 128, 3, "lanczos", False)
        for pixels in pyramid(top):
            level = len(pixels)
            stored = decode(prepared.read(level, "train", [number])[0], level, 3)
            assert np.abs(stored.astype(int) - pixels).mean() <= (2 if level == 128 else 0)


def test_real_faces_become_a_pyramid_up_to_1024(faces, tmp_path):
    some = tmp_path / "faces"
    some.mkdir()
    for file in sorted(faces.iterdir())[:4]:
        shutil.copy(file, some)
    prepare(PrepareConfig(path=str(some), out=str(tmp_path / "set"), resolution=1024, workers=1))
    shards = Shards.open(tmp_path / "set")
    assert shards.levels == [4, 8, 16, 32, 64, 128, 256, 512, 1024]
    top = decode(shards.read(1024, "train", [0])[0], 1024, 3)
    source = np.asarray(Image.open(some / f"{shards.keys('train')[0]}.jpg"))
    assert np.abs(top.astype(int) - source).mean() < 2  # jpeg:97:444 of a picture that needed no resizing
    small = decode(shards.read(64, "train", [0])[0], 64, 3)
    assert (small == (source.reshape(64, 16, 64, 16, 3).mean((1, 3)) + 0.5).astype(np.uint8)).all()


def test_digits_need_no_files(tmp_path):
    report = prepare(PrepareConfig(source="digits", out=str(tmp_path / "set"), resolution=8, split=SplitConfig(holdout=97)))
    shards = Shards.open(tmp_path / "set")
    assert (report["train"], report["holdout"], shards.levels, shards.channels) == (1700, 97, [4, 8], 1)
    from sklearn.datasets import load_digits

    number = int(shards.keys("train")[10].split("_")[0])
    stored = decode(shards.read(8, "train", [10])[0], 8, 1)[:, :, 0]
    assert np.abs(stored - load_digits().images[number] * 255 / 16).max() <= 0.5


def test_the_split_follows_seed_and_prefix(config, prepared):
    held = set(prepared.keys("holdout"))
    assert len(held) == 5 and not held & set(prepared.keys("train")) and len(prepared.keys("train")) == 25
    prepare(replace(config, split=SplitConfig(holdout=5, seed=1), resolution=4))
    assert set(Shards.open(config.out).keys("holdout")) != held
    other = config.out + "2"
    prepare(replace(config, out=other, split=SplitConfig(holdout=2, prefix="b/"), resolution=4))
    keys = Shards.open(other).keys("holdout")
    assert sum(key.startswith("b/") for key in keys) == 15 and len(keys) == 17
    # as data sets were written before there was split.match: the same command finds them complete
    assert Shards.open(other).manifest["settings"]["split"] == {"holdout": 2, "seed": 0, "prefix": "b/"}


def test_mean_and_deviation_are_those_of_the_training_images(photos, prepared):
    tops = np.stack([square(Image.open(photos / f"{key}.jpg"), 128, 3, "lanczos", False) for key in prepared.keys("train")])
    scaled = tops / 127.5 - 1
    assert np.allclose(prepared.manifest["mean"], scaled.mean((0, 1, 2))) and np.allclose(prepared.manifest["std"], scaled.std((0, 1, 2)))


def test_progress_reaches_the_total(config):
    calls = []
    prepare(config, lambda done, total: calls.append((done, total)))
    listed, made = [call for call in calls if call[1] is None], [call for call in calls if call[1] is not None]
    assert listed == [(30, None)] and calls[: len(listed)] == listed
    assert made[-1] == (30, 30) and made == sorted(made)


def test_a_killed_preparation_continues_to_the_same_bytes(tmp_path, config, fill, hashes):
    """SIGKILL in the middle: refused as unfinished, finished shards are kept, and the end is the one of an undisturbed run."""
    large = fill(tmp_path / "large", 24, width=900, height=900)
    config = replace(config, path=str(large), resolution=512, images_per_shard=2)
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(config,))
    process.start()
    out = Path(config.out)
    while len(list(out.glob(".prepare/shard-*.json"))) < 3:
        assert process.is_alive(), "finished before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(DataError, match=r"not finished .*: run hires prepare again"):
        Shards.open(out)
    finished = {file: file.stat().st_mtime_ns for file in out.glob("512/shard-*.tar") if (out / ".prepare" / f"{file.stem}.json").exists()}
    prepare(config)
    assert finished and all(file.stat().st_mtime_ns == then for file, then in finished.items())
    undisturbed = replace(config, out=str(tmp_path / "undisturbed"))
    prepare(undisturbed)
    assert hashes(out) == hashes(Path(undisturbed.out))
    assert not list((out / ".prepare").glob("*.tar"))


def test_killed_once_the_manifest_is_there_it_leaves_what_an_undisturbed_one_leaves(tmp_path, config):
    def write(path: Path, text: str) -> None:
        write_whole(path, text)
        if path.name == "manifest.json":
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        finishing.write_whole = write  # in this process alone
        prepare(config)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert prepare(config)["status"] == "already complete"
    undisturbed = replace(config, out=str(tmp_path / "undisturbed"))
    prepare(undisturbed)
    left, wanted = ({path.name for path in Path(one.out, ".prepare").iterdir()} for one in (config, undisturbed))
    assert left == wanted


def test_a_killed_worker_ends_the_run_in_words(config, one_line):
    def kill_one(*_: int) -> None:
        for child in multiprocessing.active_children()[:1]:
            os.kill(child.pid, signal.SIGKILL)

    kill_soon = replace(config, images_per_shard=1)
    with pytest.raises(DataError) as caught:
        prepare(kill_soon, kill_one)
    assert "a worker was killed" in one_line(caught.value)


@pytest.mark.parametrize("name", ["a/cut.jpg", "a/empty.png", "b/page.jpg", "b/tiny.png"])
def test_one_bad_picture_stops_and_is_named(tmp_path, config, name, one_line, fill, draw):
    folder = fill(tmp_path / "pictures", 6)
    for bad in add_bad_pictures(folder, draw):
        if bad != name:
            (folder / bad).unlink()
    with pytest.raises(DataError) as caught:
        prepare(replace(config, path=str(folder), split=SplitConfig()))
    assert str(folder / name) in one_line(caught.value) and "wanted" in str(caught.value)


def test_bad_pictures_are_skipped_and_reported_when_asked(tmp_path, config, fill, draw):
    folder = fill(tmp_path / "pictures", 12)
    bad = add_bad_pictures(folder, draw)
    config = replace(config, path=str(folder), split=SplitConfig(), images_per_shard=4)
    with pytest.raises(DataError):
        prepare(config)
    report = prepare(replace(config, on_error="skip"))  # after a failure the same folder is continued
    assert (report["train"], report["skipped"]) == (12, 4)
    assert sorted(entry["file"] for entry in report["bad"]) == sorted(str(folder / name) for name in bad)
    assert json.loads((Path(config.out) / "report.json").read_text()) == report
    shards = Shards.open(config.out)
    assert sum(shards.shard_sizes("train")) == 12 and len(shards.keys("train")) == 12


def test_what_was_skipped_before_a_kill_is_told_when_continuing_asks_to_fail(tmp_path, config, fill, draw, monkeypatch, one_line):
    folder = fill(tmp_path / "pictures", 6)
    add_bad_pictures(folder, draw)
    config = replace(config, path=str(folder), split=SplitConfig(), on_error="skip")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sys.modules["pipelines.prepare"], "finish", interrupt)
        prepare(config)
    with pytest.raises(DataError) as caught:
        prepare(replace(config, on_error="fail"))
    assert str(folder) in one_line(caught.value)
    assert prepare(config)["skipped"] == 4


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_licence_can_be_added_to_a_finished_set(config):
    prepare(config)
    assert prepare(replace(config, licence="CC0"))["status"] == "already complete"
    assert prepare(config)["status"] == "already complete"  # none given: the one that was stays
    assert Shards.open(config.out).manifest["licence"] == "CC0"


def test_shards_of_nothing_but_bad_pictures_are_left_out(tmp_path, config, fill, draw):
    folder = fill(tmp_path / "pictures", 6)
    add_bad_pictures(folder, draw)
    config = replace(config, path=str(folder), split=SplitConfig(), images_per_shard=1, on_error="skip")
    prepare(config)
    assert Shards.open(config.out).shard_sizes("train") == [1] * 6
    for file in folder.glob("?/0*.jpg"):
        file.unlink()
    with pytest.raises(DataError, match="none of the 4 pictures"):
        prepare(replace(config, out=config.out + "2"))


def test_the_same_again_says_so_and_touches_nothing(config, tmp_path, photos):
    config = replace(config, path=str(shutil.copytree(photos, tmp_path / "copy")))
    prepare(config)
    times = {file: file.stat().st_mtime_ns for file in Path(config.out).rglob("*")}
    assert prepare(replace(config, workers=1))["status"] == "already complete"
    shutil.rmtree(config.path)
    assert prepare(config)["status"] == "already complete"  # the originals were put away
    assert times == {file: file.stat().st_mtime_ns for file in Path(config.out).rglob("*")}


def test_another_configuration_or_source_overwrites_nothing(config, tmp_path, one_line, fill, hashes):
    prepare(config)
    before = hashes(Path(config.out))
    other = fill(tmp_path / "other", 4)
    for change, said in (({"filter": "box"}, "filter=lanczos; wanted filter=box"), ({"path": str(other)}, "made of other pictures")):
        with pytest.raises(DataError) as caught:
            prepare(replace(config, **change))
        assert said in one_line(caught.value)
    assert hashes(Path(config.out)) == before


def test_an_unfinished_folder_of_another_configuration_is_refused(config):
    prepare(config)
    (Path(config.out) / "manifest.json").unlink()
    with pytest.raises(DataError, match="unfinished data set with resolution=128; wanted resolution=64"):
        prepare(replace(config, resolution=64))


def test_a_folder_of_something_else_is_refused(config):
    Path(config.out).mkdir()
    (Path(config.out) / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="not empty, and not written by hires prepare"):
        prepare(config)
    assert os.listdir(config.out) == ["thesis.tex"]


def test_lost_shards_are_made_again_and_only_they(config, hashes):
    prepare(config)
    out = Path(config.out)
    before = hashes(out)
    lost, cut, kept = (out / "64" / f"shard-0000{i}.tar" for i in (0, 1, 2))
    then = kept.stat().st_mtime_ns
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1000])
    (out / "index" / "train-8.entries").unlink()
    assert prepare(config)["status"] == "prepared"
    assert hashes(out) == before and kept.stat().st_mtime_ns == then


def test_mending_that_fails_leaves_an_unfinished_folder(config, monkeypatch):
    prepare(config)
    (Path(config.out) / "index" / "train-8.entries").unlink()
    monkeypatch.setattr("pipelines.finishing.Index.close", lambda self: os.stat("/no/such/disk"))
    with pytest.raises(DataError, match="/no/such/disk: No such file or directory"):
        prepare(config)
    with pytest.raises(DataError, match="not finished"):
        Shards.open(config.out)


def test_a_picture_changed_since_the_kill_is_made_again(config, tmp_path, photos, draw, hashes):
    config = replace(config, path=str(shutil.copytree(photos, tmp_path / "copy")), split=SplitConfig())
    prepare(config)
    (Path(config.out) / "manifest.json").unlink()  # as if killed just before
    Image.fromarray(draw(99)).save(Path(config.path) / "a" / "000.jpg", quality=92)
    for name in ("027", "029"):  # one shard less
        (Path(config.path) / "b" / f"{name}.jpg").unlink()
    prepare(config)
    fresh = replace(config, out=config.out + "2")
    prepare(fresh)
    assert hashes(Path(config.out)) == hashes(Path(fresh.out))


def test_two_preparations_do_not_write_into_one_folder(config, monkeypatch):
    work = Path(config.out) / ".prepare"
    work.mkdir(parents=True)
    monkeypatch.setattr(sys.modules["pipelines.prepare"].time, "sleep", lambda seconds: None)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another hires prepare is writing there"):
            prepare(config)


@pytest.mark.parametrize("kind", ["folder", "webdataset", "idx"])
def test_pictures_replaced_in_place_at_the_same_size_are_noticed(tmp_path, kind, draw, one_line):
    """Files that were only written again, as a copy does, are compared and found the same, once."""

    def write(first: int) -> list[Path]:
        pictures = [draw(first if i == 5 else i, 16, 16) for i in range(9)]
        (tmp_path / "in").mkdir(exist_ok=True)
        if kind == "idx":
            data = [b"\0\0\x08\x03" + np.array([9, 16, 16], ">i4").tobytes() + b"".join(one[:, :, 0].tobytes() for one in pictures)]
            data += [b"\0\0\x08\x01" + np.array([9], ">i4").tobytes() + bytes(9)]
            files = [tmp_path / "in" / f"train-{name}-ubyte" for name in ("images-idx3", "labels-idx1")]
            [file.write_bytes(one) for file, one in zip(files, data, strict=True)]
            return files
        files = [tmp_path / "in" / f"{i}.bmp" for i in range(9)]
        [Image.fromarray(one).save(file) for file, one in zip(files, pictures, strict=True)]
        if kind == "folder":
            return files
        with tarfile.open(tmp_path / "in.tar", "w") as out:
            [out.add(file, file.name) for file in files]
        return [tmp_path / "in.tar"]

    config = PrepareConfig(source=kind, out=str(tmp_path / "set"), resolution=16, images_per_shard=4, workers=1)
    config.path = str(tmp_path / ("in.tar" if kind == "webdataset" else "in"))
    write(5)
    assert "compared" not in prepare(config)
    assert prepare(config)["compared"] == "names, sizes and times"
    for file in write(5):
        os.utime(file, (1, 1))
    report = prepare(config)
    assert report["status"] == "already complete" and "9 pictures in shards of which a file was written since" in report["compared"]
    assert prepare(config)["compared"] == "names, sizes and times"
    write(50)
    with pytest.raises(DataError, match=r"made of another .* of the same size") as caught:
        prepare(config)
    assert {"folder": "5.bmp", "webdataset": "in.tar: 5.bmp", "idx": "picture 5"}[kind] in one_line(caught.value)
    shutil.rmtree(Path(config.out) / ".prepare")  # as in a copy
    assert prepare(config)["compared"] == "names and sizes"


def test_what_was_left_out_is_counted_by_ending(config, tmp_path, fill):
    config = replace(config, path=str(fill(tmp_path / "in", 6)), split=SplitConfig())
    for name in ("a/notes.txt", "b/more.TXT", "README", ".hidden.jpg"):
        (tmp_path / "in" / name).write_text("BMW, and other words")
    assert prepare(config)["left_out"] == prepare(config)["left_out"] == {".txt": 2, "no ending": 1, "hidden": 1}


def test_the_hints_that_an_error_prints_are_taken(config, tmp_path, fill, draw, hashes):
    """Whether a shard was finished before the picture that is too small, or none."""
    for images_per_shard in (7, 2):
        folder = fill(tmp_path / f"in{images_per_shard}", 6)
        Image.fromarray(draw(0, 30, 30)).save(folder / "b" / "small.png")
        config = replace(config, path=str(folder), split=SplitConfig(), images_per_shard=images_per_shard, workers=1)
        with pytest.raises(DataError, match=r"or allow_upscale=true \(on_error=skip leaves such pictures out\)"):
            prepare(config)
        assert prepare(replace(config, on_error="skip", out=config.out + "-skip"))["skipped"] == 1
        assert prepare(replace(config, allow_upscale=True))["train"] == 7
        prepare(replace(config, allow_upscale=True, out=config.out + "-fresh"))
        assert hashes(Path(config.out)) == hashes(Path(config.out + "-fresh"))
        for out in tmp_path.glob("set*"):
            shutil.rmtree(out)


def test_where_nothing_was_finished_other_settings_may_begin(config, tmp_path, fill, draw):
    config = replace(config, path=str(fill(tmp_path / "in", 3)), split=SplitConfig(), workers=1)
    Image.fromarray(draw(0, 90, 90)).save(tmp_path / "in" / "a" / "small.png")
    with pytest.raises(DataError, match="wanted at least 128x128"):
        prepare(config)
    assert prepare(replace(config, resolution=64))["train"] == 4
    assert sorted(entry.name for entry in Path(config.out).iterdir() if entry.name.isdigit()) == ["16", "32", "4", "64", "8"]


def test_a_system_without_shared_memory_is_named(config, monkeypatch, one_line):
    def refused(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", refused)
    with pytest.raises(DataError) as caught:
        prepare(config)
    assert one_line(caught.value).startswith("/dev/shm: ") and "Function not implemented" in str(caught.value)
    assert config.out not in str(caught.value)


def test_a_full_disk_is_named(config, monkeypatch, one_line):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.writing.Tar.add", full)
    with pytest.raises(DataError) as caught:
        prepare(config)
    assert config.out in one_line(caught.value) and "No space left on device" in str(caught.value)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"out": ""}, "out=: empty"),
        ({"source": "lmbd"}, "source=lmbd: unknown"),
        ({"resolution": 0}, "resolution=0: wanted"),
        ({"resolution": 98}, "resolution=98: wanted a power of two"),
        ({"resolution": 64, "source": "digits"}, "digits are 8x8 pixels; wanted at most 32"),
        ({"channels": 4}, "channels=4: wanted 1 or 3"),
        ({"filter": "sinc"}, "filter=sinc: unknown"),
        ({"codec": "jpeg"}, "codec=jpeg: unknown"),
        ({"on_error": "ignore"}, "on_error=ignore: unknown"),
        ({"images_per_shard": 0}, "images_per_shard=0: wanted"),
        ({"workers": -1}, "workers=-1: wanted"),
        ({"split": SplitConfig(-1)}, "split.holdout=-1: wanted"),
        ({"split": SplitConfig(30)}, "30 of 30 pictures would be held out"),
        ({"split": SplitConfig(prefix="test/")}, "split.prefix=test/: no key is named so"),
        ({"split": SplitConfig(prefix="a/", match="_x$")}, "split.match=_x$: no key is named so"),
        ({"split": SplitConfig(match="(")}, "split.match=(: no regular expression"),
        ({"path": "nowhere"}, "path=nowhere: no such folder"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_written(config, change, said, one_line):
    with pytest.raises(DataError) as caught:
        prepare(replace(config, **change))
    assert said in one_line(caught.value)
    assert not Path(config.out).exists()
