"""What a killed process left of a file or folder is removed by the next that writes it; what a living one writes is not."""

from collections.abc import Callable
import os
from pathlib import Path
import signal

import pytest

from hires.ground.files import whole_file, whole_folder


def begun(whole: Callable, path: Path) -> int:
    """A process that has begun to write `path` and waits."""
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            with whole(path) as part:
                (part / "a" if part.is_dir() else part).write_text("half")
                os.write(tell, b"x")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(tell)
    return child


def write(whole: Callable, path: Path) -> None:
    with whole(path) as part:
        (part / "a" if part.is_dir() else part).write_text("whole")


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, whole, number):
    path = tmp_path / "out[1].mp4"
    others = {f".{path.name}.0123456.part", f".{path.name}.01234567.partly", ".other.01234567.part", f"{path.name}.01234567.part"}
    for name in others:
        (tmp_path / name).touch()
    child = begun(whole, path)
    write(whole, path)
    assert len(list(tmp_path.glob(".out*.part"))) == 2  # its, which is alive, and one of the others
    os.kill(child, number)
    assert os.waitpid(child, 0)[1] == number
    with path.open() if path.is_file() else (path / "a").open() as file:
        assert file.read() == "whole"
    if path.is_dir():
        (path / "a").unlink()
    write(whole, path)
    assert {entry.name for entry in tmp_path.iterdir()} == others | {path.name}
