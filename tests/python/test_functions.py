"""`import hires`: every verb is a function with the command line's settings, and the process that calls it stays its owner's."""

import importlib
from importlib.util import find_spec
import inspect
import json
from pathlib import Path
import subprocess
import sys

import pytest
import torch

import hires
from hires import cli, verbs
from hires.errors import HiresError

ROOT = Path(__file__).parents[2]
PROCESS = ROOT / "tests" / "processes" / "guest.py"
BOARD = find_spec("tensorboard") is not None
END = 112


@pytest.fixture(scope="module")
def guest(tiny, forks, clean_env, tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a program that trained by `hires.train` in several ways, and what it found; see processes/guest.py."""
    folder = tmp_path_factory.mktemp("guest")
    (folder / "settings.json").write_text(json.dumps(tiny))
    command = [sys.executable, PROCESS, folder / "settings.json", folder, str(int(BOARD))]
    done = forks.run(command, env=clean_env, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return folder, json.loads((folder / "found.json").read_text())


def test_import_is_light():
    code = "import sys, hires; sys.exit(not {'torch', 'omegaconf', 'rich'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_run_gives_back_what_it_made(guest):
    folder, found = guest
    assert found["one"] == {"images": END, "finished": True, "status": 0, "changed": []}
    assert [record["images"] for record in found["records"] if "resolution" in record] == list(range(16, END + 1, 16))
    assert all((folder / "thread/samples" / name).is_file() for name in found["pictures"]) and found["pictures"]


def test_the_process_is_left_as_it_was(guest):
    """Environment, signal handlers, logging, threads, the hook for errors, the process group, torch's generator; after errors as well."""
    found = guest[1]
    assert [found[name]["changed"] for name in ("one", "again", "thread", "interrupted")] == [[], [], [], []]
    assert found["after errors"] == []


def test_a_second_call_goes_on_where_the_first_was_killed(guest):
    folder, found = guest
    assert found["killed"] == 9  # SIGKILL
    assert (found["again"]["images"], found["again"]["finished"]) == (END, True)
    assert tensors(folder / "killed") == tensors(folder / "thread")


def test_a_thread_trains(guest):
    """Python takes no signals there, and a limit on hanging (1 s, less than its start takes) does not end another's process."""
    folder, found = guest
    assert found["thread"]["finished"]
    assert len(tensors(folder / "thread")) > 10


def test_an_interrupt_saves_and_gives_back_a_run_that_is_not_finished(guest):
    found = guest[1]["interrupted"]
    assert not found["finished"] and found["status"] == 85 and 16 < found["images"] < END


def test_errors_are_raised_in_one_line(guest):
    bogus, stage, data = guest[1]["errors"]
    assert "no setting 'bogus'" in bogus
    assert stage == "zero.stage=7: wanted 0, 1, 2 or 3"
    assert "nowhere" in data and "\n" not in data
    assert not (guest[0] / "wrong").exists()


@pytest.mark.skipif(not BOARD, reason="tensorboard is not installed")
def test_tensorboard_has_each_point_once_after_a_kill(guest):
    """Killed at 64 images, with a checkpoint at 48: the points up to there stand in the first file, the others in the second."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, found = guest
    files = sorted((folder / "killed/tensorboard").iterdir())
    assert len(files) == 2
    first = EventAccumulator(str(files[0]), size_guidance={"scalars": 0, "images": 0}).Reload()
    assert first.Scalars("energy_gap")[-1].step == 64  # a point past the checkpoint
    both = EventAccumulator(str(folder / "killed/tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    records = {r["images"]: r for r in found["records"] if "resolution" in r}  # of the run that was not killed: the same numbers
    for name in set(records[16]) - {"images", "eta_seconds", "seconds_per_kimg", "memory_gb"}:
        points = [(point.step, point.value) for point in both.Scalars(name)]
        wanted = [(images, pytest.approx(record[name], rel=1e-4)) for images, record in records.items() if name in record]
        assert points == wanted, name
    assert "seconds_per_kimg" in both.Tags()["scalars"] and "memory_gb" in both.Tags()["scalars"]
    grids = [name.split("-") for name in found["pictures"] if name.startswith("fakes-")]
    assert [point.step for point in both.Images("grids/fakes")] == [int(parts[1]) for parts in grids]


def tensors(run: Path) -> dict[str, bytes]:
    """The bytes of the last checkpoint's tensors."""
    from safetensors.torch import load_file

    files = sorted((run / "checkpoints" / f"images-{END:012d}").glob("*.safetensors"))
    return {f"{file.name}/{name}": tensor.numpy().tobytes() for file in files for name, tensor in load_file(file).items()}


def test_every_verb_is_a_function():
    names = {*cli.VERBS, "video_growth"}
    assert names <= set(hires.__all__)
    for name in names:
        function = getattr(hires, name)
        assert inspect.isfunction(function) and function.__doc__, name
        returned = inspect.signature(importlib.import_module(f"hires.verbs.{name}").run).return_annotation
        assert issubclass(returned, verbs.Result) and returned.__name__ == inspect.signature(function).return_annotation, name


def test_a_package_of_a_verbs_name_does_not_take_its_place():
    import hires.explore.mixing
    import hires.report.page

    assert inspect.isfunction(hires.report) and inspect.isfunction(hires.explore)


def test_the_command_line_calls_the_same(monkeypatch):
    seen = []

    class Given(verbs.Result):
        status = 7

    monkeypatch.setattr(verbs, "call", lambda *given, **how: seen.append((given, how)) or Given())
    assert cli.main(["video", "growth", "run=a"]) == 7
    assert cli.main(["train", "run=a"]) == 7
    assert seen == [(("video_growth", ["run=a"]), {}), (("train", ["run=a"]), {"owns_process": True})]


@pytest.mark.parametrize(
    ("keywords", "written"),
    [
        ({"run": Path("a/b"), "train": {"threads": 2, "trial": False}}, ["run=a/b", "train.threads=2", "train.trial=false"]),
        ({"seeds": range(3), "from_": ["a.png", "b c.png"]}, ["seeds=0,1,2", "from=a.png,b c.png"]),
        ({"schedule": {"levels": {4: {"lr": 1e-5}}}, "verify": None}, ["schedule.levels.4.lr=1e-05", "verify=null"]),
    ],
)
def test_keywords_are_written_as_settings(keywords, written):
    assert list(verbs._settings(keywords)) == written


def test_settings_and_keywords_reach_the_verb_as_the_command_lines_do(digits, tmp_path, capsys):
    """`plan`: a string, a list and keywords give one table."""
    settings = ["experiment=digits", f"data.root={digits}", "schedule.resolution=8", "run=x"]
    tables, results = [], []
    for given, keywords in (
        (settings, {}),
        (settings[:1], {"data": {"root": digits}, "schedule": {"resolution": 8}, "run": "x"}),
        ("experiment=digits", {"data.root": digits, "schedule.resolution": 8, "run": "x"}),
    ):
        results.append(hires.plan(given, **keywords))
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] == tables[2]
    assert [plan.level.resolution for plan in results[0].levels] == [4, 8] and results[0].images == results[2].images
    assert cli.main(["plan", *settings]) == 0
    assert capsys.readouterr().out == tables[0]


def test_load_names_what_is_no_bundle(tmp_path):
    with pytest.raises(HiresError, match=r"^bundle=.*/nothing: no such folder; wanted a bundle that hires export wrote$"):
        hires.load(tmp_path / "nothing")
    with pytest.raises(HiresError, match=r"^device=gpu: wanted auto, cpu, cuda or cuda:N$"):
        hires.load(tmp_path, device="gpu")


def test_grid_is_the_picture_of_the_command(tmp_path):
    from PIL import Image

    x = torch.rand(5, 1, 8, 8) * 2 - 1
    picture = hires.grid(x, columns=5)
    assert picture.size == (5 * 66 + 2, 68)
    picture.save(tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").tobytes() == picture.tobytes()
    with pytest.raises(HiresError, match=r"images of shape \(1, 8, 8\), wanted"):
        hires.grid(x[0])
