"""A run's folder in any state is read; what is missing or broken is told in a line."""

import pytest

from hires.errors import HiresError
from hires.report.page import report
from tests.report.fabricate import checkpoint, evaluation, opened, write


def test_a_whole_run(tmp_path):
    folder = write(tmp_path / "run", grids=True)
    checkpoint(folder, 1000)
    evaluation(folder, 1000, "sheet.png", swd=[3.0, 5.0])
    run = opened(folder)
    assert (run.missing, run.images, run.end, run.system) == ([], 1000, 1000, "divergence_triangle")
    assert [grid.images for grid in run.grids["fakes"]] == [200, 400, 600, 800, 1000]
    assert [(images, path.name) for images, path in run.pictures] == [(1000, "sheet.png")]
    assert sum(seconds for _, seconds in run.seconds()) == pytest.approx(30.0)  # 1000 images at 30 s a thousand


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("config.yaml", "config.yaml: not there"),
        ("metrics.jsonl", "metrics.jsonl: no progress line"),
        ("samples", "samples: no grids"),
        ("checkpoints", "checkpoints: none"),
        ("environment.json", "environment.json: not there"),
        ("evaluation-000000001000.json", "measures: none"),
    ],
)
def test_what_is_missing_is_told_in_a_line_and_the_page_is_made(tmp_path, gone, told):
    folder = write(tmp_path / "run", grids=True)
    checkpoint(folder, 1000)
    evaluation(folder, 1000, swd=[3.0])
    (folder / gone).rename(tmp_path / "elsewhere")
    run = opened(folder)
    assert len(run.missing) == 1 and run.missing[0].startswith(told)
    assert told in report(run)[0]


@pytest.mark.parametrize("there", ["config.yaml", "metrics.jsonl", "checkpoints", "samples"])
def test_one_part_alone_is_enough_for_a_page(tmp_path, there):
    whole = write(tmp_path / "whole", grids=True)
    checkpoint(whole, 1000)
    (tmp_path / "part").mkdir()
    (whole / there).rename(tmp_path / "part" / there)
    assert "<h1>part</h1>" in report(opened(tmp_path / "part"))[0]


def test_a_half_written_last_line_is_told_and_the_lines_before_it_stay(tmp_path):
    folder = write(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"images": 1100, "resol')
    run = opened(folder)
    assert run.statuses[-1]["images"] == 1000
    assert any("half written" in line for line in run.missing)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("config.yaml", "run: [", "config.yaml: not readable"),
        ("config.yaml", "just text", "config.yaml: no schedule"),
        ("config.yaml", "network: {unheard_of: 1}\nobjective: {name: vae}", "settings that this version does not know"),
        ("environment.json", "[1]", "environment.json: no object"),
        ("environment.json", "{", "environment.json: not readable"),
        ("metrics.jsonl", 'null\n{"images": "x"}\n{"images": 9}\n', "metrics.jsonl: 2 lines not readable, the first is line 1"),
        ("evaluation-000000001000.json", "{", "evaluation-000000001000.json: not readable"),
    ],
)
def test_a_broken_file_is_told_in_a_line_and_the_page_is_made(tmp_path, name, text, told):
    folder = write(tmp_path / "run")
    (folder / name).write_text(text)
    run = opened(folder)
    assert [line for line in run.missing if told in line and "\n" not in line]
    report(run)


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(HiresError, match=r"run=.*/none: no such folder"):
        opened(tmp_path / "none")
    with pytest.raises(HiresError, match=r"run=.*: no run there"):
        opened(tmp_path)
