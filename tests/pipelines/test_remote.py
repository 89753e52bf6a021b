"""Shards at an address are read as if they were here, whatever the network does, from a cache that keeps its bound."""

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import hashlib
import importlib.util
from itertools import islice
import logging
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from pipelines import DataError, Loader, Order, PrepareConfig, Shards, prepare
from pipelines.caching import Cache
from pipelines.fetching import Origin
from pipelines.remote import THREADS, WINDOW, RemoteFiles

_spec = importlib.util.spec_from_file_location("faulty_server", Path(__file__).with_name("faulty_server.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
FaultyServer = _module.FaultyServer

SIZE = 3000  # bytes of each shard of `folder`
NAMES = [f"64/shard-{i:05d}.tar" for i in range(40)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    stalls = "stall" in str(getattr(request.node, "callspec", None) and request.node.callspec.params)
    monkeypatch.setattr(Origin, "timeout", 0.4 if stalls else 60.0)  # a busy machine is not to look like a server that stalls
    monkeypatch.setattr(Origin, "pause", 0.01)
    monkeypatch.setattr(Cache, "grace", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty files of random bytes under the names of shards."""
    root, rng = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    (root / "64").mkdir()
    for name in NAMES:
        (root / name).write_bytes(rng.bytes(SIZE))
    return root


@pytest.fixture
def serve() -> Iterator[Callable[[Path], "FaultyServer"]]:
    """serve(folder) -> a server of it."""
    servers = []

    def start(folder: Path) -> FaultyServer:
        servers.append(FaultyServer(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def opened(folder: Path, address: str, cache: Path, shards: float = 40) -> RemoteFiles:
    """The files of `folder` at an address, noted, with room for so many shards."""
    files = RemoteFiles(address, str(cache), shards * SIZE / 1e9)
    for name in NAMES:
        files.check(name, SIZE, hashlib.sha256((folder / name).read_bytes()).hexdigest())
    return files


def warnings_of(server: "FaultyServer", caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings that name this server: the threads of earlier tests still ask theirs, which are gone, and warn."""
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in warned if server.address in message]


def read(files: RemoteFiles, name: str) -> bytes:
    descriptor = files.open(name)
    try:
        return os.pread(descriptor, 10 * SIZE, 0)
    finally:
        os.close(descriptor)


def held(cache: Path) -> int:
    """Bytes of shards in a cache, whole or under way."""
    total = 0
    with (cache / "lock").open() as lock:  # or one file might be counted before it goes, and the one that takes its room after
        fcntl.flock(lock, fcntl.LOCK_EX)
        for kind in ("shards", "partial"):  # so what is moved from one to the other is not counted twice
            for file in (cache / kind).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    total += file.stat().st_size
    return total


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def in_fork(work: Callable[[], None]) -> int:
    """The id of a process that does `work` and ends with status 0, or 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        signal.alarm(30)  # rather than hang
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("resolution", [64, 128])
def test_pictures_from_http_are_those_of_the_folder(prepared, serve, tmp_path, resolution):
    server = serve(Path(prepared.root))
    remote = Shards.open(server.address, str(tmp_path))
    order = Order(prepared.shard_sizes("train"), 5)
    plan = [order.indices(i, 10) for i in range(0, 50, 10)]
    streams = [Loader(shards, resolution, cache_gb=0).stream(plan) for shards in (prepared, remote)]
    assert all(torch.equal(here, there) for here, there in zip(*streams, strict=True))
    assert torch.equal(Loader(prepared, resolution, "holdout").read(range(5)), Loader(remote, resolution, "holdout").read(range(5)))
    assert remote.keys("train") == prepared.keys("train")
    shards = {path: times for path, times in server.asked.items() if path.endswith(".tar")}
    assert len(shards) == 5 and set(server.asked.values()) == {1}  # of the level that is read alone, each once, and no HEAD before it
    assert not any("Range" in headers for headers in server.headers)


def test_an_epoch_through_the_loader_is_fetched_once_ahead_and_within_the_bound(fill, serve, tmp_path):
    photos = fill(tmp_path / "photos", 120, width=20, height=18)
    prepare(PrepareConfig(path=str(photos), out=str(tmp_path / "set"), resolution=16, images_per_shard=3, workers=1))
    here, server = Shards.open(tmp_path / "set"), serve(tmp_path / "set")
    bound = 20 * max(size for name, size, _ in here.contents() if name.startswith("16/"))
    there = Shards.open(server.address, str(tmp_path / "cache"), bound / 1e9)
    order = Order(here.shard_sizes("train"), 1)
    plan = [order.indices(i, 8) for i in range(0, order.total, 8)]
    there.prefetch(16, islice(order.shards_from(0), 40))
    streams = [Loader(shards, 16, cache_gb=0, workers=1).stream(plan) for shards in (here, there)]
    for ours, theirs in zip(*streams, strict=True):
        assert torch.equal(ours, theirs) and held(tmp_path / "cache") <= bound
    assert {path: times for path, times in server.asked.items() if path.startswith("16/") and times != 1} == {}
    assert sum(path.endswith(".tar") for path in server.asked) == 40


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_other_schemes_work(prepared, tmp_path, scheme):
    import fsspec

    root = f"file://{prepared.root}"
    if scheme == "memory":
        root = f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").put(prepared.root, f"/{tmp_path.name}", recursive=True)
    assert Shards.open(root).read(64, "train", range(25)) == prepared.read(64, "train", range(25))
    assert len(list((tmp_path / "xdg" / "hires").glob("*/shards/*"))) == 4


def test_an_unknown_scheme_is_told(one_line):
    with pytest.raises(DataError, match=r"ftpx://host/set: .*ftpx.*; wanted an address that fsspec knows") as caught:
        Shards.open("ftpx://host/set")
    one_line(caught.value)


FAULTS = [[503], [500, 429, 503], ["short"], ["cut"], ["long"], ["wrong"], ["reset", "reset"], ["stall"], ["stall", "short", 500]]


@pytest.mark.parametrize("faults", FAULTS)
def test_a_fault_that_passes_is_survived_and_told(folder, serve, tmp_path, faults, caplog):
    server = serve(folder)
    server.faults[NAMES[3]] = faults
    files = opened(folder, server.address, tmp_path)
    assert read(files, NAMES[3]) == (folder / NAMES[3]).read_bytes()
    assert server.asked[NAMES[3]] == len(faults) + 1
    told = warnings_of(server, caplog)
    assert len(told) == len(faults) - faults.count("reset") / 2  # aiohttp itself asks again at once, one time
    assert all(f"{server.address}/{NAMES[3]}: " in line and "trying again" in line for line in told)
    assert not list((tmp_path / "partial").iterdir())


@pytest.mark.parametrize(
    ("fault", "said", "asked"),
    [
        (503, "HTTP 503", 5),
        ("short", "1500 of 3000 bytes", 5),
        ("cut", "1500 bytes; the manifest says 3000", 5),
        ("long", "more bytes than the 3000", 5),
        ("wrong", "sha256", 5),
        ("reset", "", 10),
        ("stall", "not a byte for 0.4 s", 5),
        (404, "no such file", 1),
        (403, "HTTP 403", 1),
    ],
)
def test_a_fault_that_stays_ends_in_one_line(folder, serve, tmp_path, fault, said, asked, one_line):
    server = serve(folder)
    server.always = fault
    files = opened(folder, server.address, tmp_path)
    with pytest.raises(DataError) as caught:
        files.open(NAMES[0])
    text = one_line(caught.value)
    assert f"{server.address}/{NAMES[0]}: " in text and said in text and server.asked[NAMES[0]] == asked
    assert (f"after {min(asked, 5)} attempt(s)" in text) == (fault != 404)
    assert held(tmp_path) == 0


def test_a_server_that_is_not_there_is_named(folder, serve, tmp_path, one_line):
    server = serve(folder)
    server.close()
    with pytest.raises(DataError) as caught:
        RemoteFiles(server.address, str(tmp_path), 1).manifest()
    assert f"{server.address}/manifest.json: " in one_line(caught.value) and "after 5 attempt(s)" in str(caught.value)


def test_a_set_without_manifest_is_not_finished(folder, serve, tmp_path):
    with pytest.raises(DataError, match=r"not finished \(no manifest.json there\)"):
        Shards.open(serve(folder).address, str(tmp_path))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("room", [WINDOW, 2 * WINDOW])
def test_an_epoch_larger_than_the_cache_is_fetched_once_within_the_bound(folder, serve, tmp_path, ahead, room):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path, room)
    order = Order([20] * len(NAMES), 3)
    epoch = [NAMES[i // 20] for i in order.indices(0, order.total).tolist()]
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most.append(held(tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    if ahead:
        files.prefetch(dict.fromkeys(epoch))
    for name in epoch:
        assert read(files, name)[:9] == (folder / name).read_bytes()[:9]
        most.append(held(tmp_path))
    done.set()
    watcher.join()
    assert 0.9 * room * SIZE < max(most) <= room * SIZE
    if ahead and room == WINDOW:  # what is fetched ahead may take the room of what is opened next, which then takes its
        assert set(server.asked) == set(NAMES) and server.asked.total() < 2 * len(NAMES)
    else:
        assert server.asked == dict.fromkeys(NAMES, 1)


def test_the_window_is_the_orders():
    assert Order([1], 0).window == WINDOW


def test_fetching_ahead_goes_two_windows_and_no_further(folder, serve, tmp_path):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path)
    files.prefetch(iter(NAMES))
    until(lambda: server.asked.total() == 2 * WINDOW and not files._threads)
    assert set(server.asked) == set(NAMES[: 2 * WINDOW]) and server.busiest <= THREADS
    read(files, NAMES[3])  # the first four are in use or were
    until(lambda: server.asked.total() == 2 * WINDOW + 4 and not files._threads)
    for name in NAMES[: 2 * WINDOW]:
        read(files, name)
    assert max(server.asked.values()) == 1


def test_what_was_fetched_ahead_is_not_pushed_out_before_its_use(folder, serve, tmp_path):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path, 8)
    files.prefetch(NAMES)
    until(lambda: not files._threads)
    assert set(NAMES[:7]) < set(server.asked) < set(NAMES[:9])  # of the last two, either thread may have had the room
    assert read(files, NAMES[39]) and read(files, NAMES[0])  # what is asked for has its place, at the cost of what comes last
    assert max(server.asked[name] for name in NAMES[:7]) == 1


def test_another_order_takes_the_place_of_the_first(folder, serve, tmp_path):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path, 4)
    files.prefetch(NAMES[:10])
    until(lambda: not files._threads)
    files.prefetch(NAMES[20:])
    until(lambda: not files._threads)
    assert set(server.asked) == {*NAMES[:4], *NAMES[20:24]}


def test_a_small_set_is_fetched_once_though_its_order_is_endless(folder, serve, tmp_path):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path)
    files.prefetch(NAMES[i % 3] for i in iter(range(10**6)))
    for i in range(300):
        read(files, NAMES[i % 3])
    until(lambda: not files._threads)
    assert server.asked == dict.fromkeys(NAMES[:3], 1)


def test_what_failed_ahead_is_told_and_fetched_when_needed(folder, serve, tmp_path, caplog):
    server = serve(folder)
    server.faults[NAMES[1]] = [503] * 5
    files = opened(folder, server.address, tmp_path)
    files.prefetch(NAMES[:3])
    until(lambda: not files._threads)
    assert any("fetched ahead" in record.getMessage() and NAMES[1] in record.getMessage() for record in caplog.records)
    assert read(files, NAMES[1]) == (folder / NAMES[1]).read_bytes() and server.asked[NAMES[1]] == 6


def test_processes_and_threads_fetch_each_file_once(folder, serve, tmp_path):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path)

    def work(shift: int) -> None:
        mine = opened(folder, server.address, tmp_path) if shift % 2 else files
        mine.prefetch(NAMES)
        for name in np.roll(NAMES, shift).tolist():
            assert read(mine, name) == (folder / name).read_bytes()

    processes = [in_fork(lambda shift=shift: work(shift)) for shift in range(3)]
    threads = [threading.Thread(target=work, args=(shift,)) for shift in range(3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [status(pid) for pid in processes] == [0, 0, 0]
    assert server.asked == dict.fromkeys(NAMES, 1)


def test_processes_keep_the_bound_together(folder, serve, tmp_path):
    server, room = serve(folder), 4

    def work(shift: int) -> None:
        mine = opened(folder, server.address, tmp_path, room)
        for name in np.roll(NAMES, shift).tolist():
            assert read(mine, name) == (folder / name).read_bytes()

    processes, most = [in_fork(lambda shift=shift: work(shift)) for shift in (0, 10, 20)], 0
    while processes:
        most = max(most, held(tmp_path) if (tmp_path / "lock").exists() else 0)
        pid, code = os.waitpid(-1, os.WNOHANG)
        if pid:
            processes.remove(pid)
            assert code == 0
    assert 0 < most <= room * SIZE


def test_a_killed_download_is_neither_taken_for_whole_nor_left(folder, serve, tmp_path):
    server = serve(folder)
    server.faults[NAMES[0]] = ["slow"]
    pid = in_fork(lambda: read(opened(folder, server.address, tmp_path), NAMES[0]))
    assert server.halfway.wait(20)
    until(lambda: held(tmp_path) == SIZE)
    os.kill(pid, signal.SIGKILL)
    assert status(pid) == -signal.SIGKILL
    assert len(list((tmp_path / "partial").iterdir())) == 1 and not list((tmp_path / "shards").iterdir())
    files = opened(folder, server.address, tmp_path)
    assert not list((tmp_path / "partial").iterdir())
    assert read(files, NAMES[0]) == (folder / NAMES[0]).read_bytes() and server.asked[NAMES[0]] == 2


def test_who_waits_for_a_killed_download_goes_on_itself(folder, serve, tmp_path):
    server = serve(folder)
    server.faults[NAMES[0]] = ["slow"]
    pid = in_fork(lambda: read(opened(folder, server.address, tmp_path), NAMES[0]))
    assert server.halfway.wait(20)
    files, got = opened(folder, server.address, tmp_path), []
    waiting = threading.Thread(target=lambda: got.append(read(files, NAMES[0])), daemon=True)
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive() and server.asked[NAMES[0]] == 1
    os.kill(pid, signal.SIGKILL)
    status(pid)
    waiting.join(20)
    assert got == [(folder / NAMES[0]).read_bytes()] and server.asked[NAMES[0]] == 2


@pytest.mark.parametrize("harm", ["none", "byte", "cut", "empty"])
def test_a_file_kept_from_before_is_used_only_if_it_is_right(folder, serve, tmp_path, harm, caplog):
    server = serve(folder)
    read(opened(folder, server.address, tmp_path), NAMES[0])
    (file,) = (tmp_path / "shards").iterdir()
    data = file.read_bytes()
    file.write_bytes({"none": data, "byte": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "empty": b""}[harm])
    time.sleep(0.02)  # the clock that files are stamped with is coarse
    assert read(opened(folder, server.address, tmp_path), NAMES[0]) == data
    assert server.asked[NAMES[0]] == (1 if harm == "none" else 2) and ("damaged" in caplog.text) == (harm != "none")


def test_a_data_set_made_again_is_read_anew(photos, serve, tmp_path):
    for count in (7, 30):
        config = PrepareConfig(path=str(photos), out=str(tmp_path / f"set{count}"), resolution=8, images_per_shard=count, workers=1)
        prepare(config)
    os.rename(tmp_path / "set7", tmp_path / "set")
    server, cache = serve(tmp_path / "set"), str(tmp_path / "cache")
    assert Shards.open(server.address, cache).shard_sizes("train") == [7, 7, 7, 7, 2]
    os.rename(tmp_path / "set", tmp_path / "old")
    os.rename(tmp_path / "set30", tmp_path / "set")
    again = Shards.open(server.address, cache)
    assert again.shard_sizes("train") == [30]
    assert again.read(8, "train", range(30)) == Shards.open(tmp_path / "set").read(8, "train", range(30))


def test_a_forked_process_reads_too(folder, serve, tmp_path):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path)
    files.prefetch(NAMES[:20])
    read(files, NAMES[0])
    with files._lock:  # as one of the threads may have it
        pid = in_fork(lambda: [read(files, name) for name in NAMES[20:]])
    assert status(pid) == 0


ELSEWHERE = ["../64/a.tar", "/etc/passwd", "64/../../a.tar", "64/.tar", "64/a.tar\n", "index/../a", "index/a/b", "a.tar", "64/a/b.tar", ""]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name, one_line):
    files = RemoteFiles("memory://nothing", str(tmp_path), 1)
    with pytest.raises(DataError, match=r"wanted LEVEL/NAME\.tar or index/NAME") as caught:
        files.check(name, 1, "0" * 64)
    one_line(caught.value)
    for get in (files.open, files.path):
        with pytest.raises(DataError, match="is not a file of this data set"):
            get(name)


@pytest.mark.parametrize(("size", "sha256"), [(-1, "0" * 64), ("1", "0" * 64), (1, "../../x"), (1, "0" * 63), (1, None)])
def test_sizes_and_hashes_that_cannot_be_are_refused(tmp_path, size, sha256):
    with pytest.raises(DataError, match=r"64/a\.tar: bytes and sha256 that cannot be"):
        RemoteFiles("memory://nothing", str(tmp_path), 1).check("64/a.tar", size, sha256)


def test_secrets_of_an_address_are_sent_and_never_told(folder, serve, tmp_path, caplog, one_line):
    server = serve(folder)
    server.always = 500
    address = server.address.replace("//", "//ann:open%20sesame@") + "/?token=hush"
    files = opened(folder, address, tmp_path)
    with pytest.raises(DataError) as caught:
        files.open(NAMES[0])
    server.always = ""
    assert read(files, NAMES[1]) == (folder / NAMES[1]).read_bytes()
    server.close()
    with pytest.raises(DataError) as refused:
        files.open(NAMES[2])
    told = one_line(caught.value) + one_line(refused.value) + caplog.text + files.root
    assert not any(secret in told for secret in ("ann", "sesame", "hush", "token"))
    assert set(server.queries) == {"token=hush"} and all("Authorization" in headers for headers in server.headers)


def test_secrets_in_what_a_library_says_are_not_told(folder, tmp_path, monkeypatch, one_line):
    from fsspec.implementations.memory import MemoryFileSystem

    def fails(*_: object, **__: object) -> None:
        raise OSError("ann may not enter memory://host/x?token=hush with open sesame (token=hush) nor http://bob:b@host/y")

    monkeypatch.setattr(MemoryFileSystem, "open", fails)
    files = opened(folder, "memory://ann:open%20sesame@host/x?token=hush", tmp_path)
    with pytest.raises(DataError) as caught:
        files.open(NAMES[0])
    text = "... may not enter memory://host/x with ... (...) nor http://host/y; given up"
    assert f"memory://host/x/{NAMES[0]}: {text}" in one_line(caught.value)


def test_a_bound_that_a_window_does_not_fit_is_told_with_the_number_wanted(folder, serve, tmp_path, caplog, one_line):
    server = serve(folder)
    opened(folder, server.address, tmp_path, 16).prefetch(NAMES)
    assert not warnings_of(server, caplog)
    opened(folder, server.address, tmp_path, 15).prefetch(NAMES)
    (told,) = warnings_of(server, caplog)
    assert "level 64: the 16 shards" in told and "wanted data.remote_gb=4.85e-05" in told
    with pytest.raises(DataError, match=r"may take 2.9e-06 GB \(data.remote_gb\); one shard takes 3e-06 GB") as caught:
        opened(folder, server.address, tmp_path / "small", 29 / 30).open(NAMES[0])
    one_line(caught.value)


def test_a_smaller_bound_than_before_is_kept_at_once(folder, serve, tmp_path):
    server = serve(folder)
    files = opened(folder, server.address, tmp_path)
    for name in NAMES:
        read(files, name)
    opened(folder, server.address, tmp_path, 10)
    assert held(tmp_path) == 10 * SIZE


def test_a_cache_that_cannot_be_written_is_told(tmp_path, one_line):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: cannot be used for fetched files \(Not a directory\); set data.remote_cache=") as caught:
        RemoteFiles("memory://nothing", str(tmp_path / "file"), 1)
    one_line(caught.value)


@pytest.mark.parametrize("fault", ["slow", ""])
def test_the_interpreter_ends_at_once_and_in_silence_while_it_fetches_ahead(folder, serve, tmp_path, fault):
    server = serve(folder)
    server.always = fault
    code = f"""
import hashlib, time
from pathlib import Path
from pipelines.remote import RemoteFiles
files = RemoteFiles({server.address!r}, {str(tmp_path)!r}, 1)
for name in {NAMES!r}:
    files.check(name, {SIZE}, hashlib.sha256(Path({str(folder)!r}, name).read_bytes()).hexdigest())
files.prefetch({NAMES!r})
while not any(any(Path({str(tmp_path)!r}, kind).iterdir()) for kind in ("partial", "shards")):
    time.sleep(0.001)
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (ended.returncode, ended.stderr) == (0, "")
