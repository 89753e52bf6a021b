"""A run's small files with something wrong in them, as benchmarks/fuzz_runs.py found them or the code told: one line, or what is whole."""

import json
from pathlib import Path

from omegaconf import OmegaConf
import pytest

from hires import config as configuration
from hires.checkpoints import reading
from hires.cli import main
from hires.report.run import read
from hires.training.monitor import read_records

LINE = {"images": 32, "resolution": 4, "alpha": 1.0, "seconds_per_kimg": 2.0}


@pytest.fixture
def run(tiny, tmp_path) -> Path:
    """config.yaml, two progress lines and a checkpoint's manifest."""
    folder = tmp_path / "run"
    newest = folder / "checkpoints" / reading.folder_name(32)
    newest.mkdir(parents=True)
    config = configuration.load("train", [*tiny, f"run={folder}"])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(LINE | {"images": images}) + "\n" for images in (16, 32)))
    (newest / reading.MANIFEST).write_text(reading.manifest_text({"format": reading.FORMAT, "images": 32, "files": [], "time": 0.0}))
    return folder


def status(run: Path, capsys) -> tuple[int, str, str]:
    return main(["slurm", "status", f"run={run}"]), *capsys.readouterr()


def test_the_status_of_a_whole_run(run, capsys):
    code, out, _ = status(run, capsys)
    assert code == 0 and "32 of 112, 4x4" in out


NO_CONFIG = ["a: b: c", "- 1", "5", "", "schedule: 7", "schedule: {levels: [1]}", "train: {max_images: " + "9" * 5000 + "}", "1: 2", "\0"]


@pytest.mark.parametrize("text", [*NO_CONFIG, "a: &a [*a]"])
def test_a_damaged_config(run, capsys, text):
    (run / "config.yaml").write_text(text)
    code, _, said = status(run, capsys)
    assert code == 1 and said.count("\n") == 1 and "Traceback" not in said
    assert any("config.yaml" in line for line in read(run).missing)


NO_RECORD = [{"alpha": "x"}, {"seconds_per_kimg": [1]}, {"alarm": 3}, {"images": True}, {"measures": 1}, {"resolution": 10**99}]


@pytest.mark.parametrize("wrong", NO_RECORD)
def test_a_progress_line_with_a_value_of_another_kind_is_left_out(run, capsys, wrong):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(LINE | wrong) + "\n")
    assert [bool(record) for _, record in read_records(run / "metrics.jsonl")] == [True, True, False]
    assert status(run, capsys)[0] == 0


def test_a_progress_line_of_another_schedule(run, capsys):
    (run / "metrics.jsonl").write_text(json.dumps({"images": 40, "resolution": 64}) + "\n")
    assert "40 of 112" in status(run, capsys)[1]


NO_MANIFEST = [{"files": 3}, {"files": [{"name": "a"}]}, {"images": "32"}, {"config": []}, {"time": "now"}, {"resolution": None}]


@pytest.mark.parametrize("wrong", NO_MANIFEST)
def test_a_manifest_with_a_value_of_another_kind(run, capsys, wrong):
    """Its own hash is right: it was written so."""
    path = run / "checkpoints" / reading.folder_name(32)
    manifest = {"format": reading.FORMAT, "images": 32, "files": [], "resolution": 4}
    (path / reading.MANIFEST).write_text(reading.manifest_text(manifest | wrong))
    assert reading.verify(path).startswith("unreadable manifest (")
    code, out, _ = status(run, capsys)
    assert code == 0 and "unreadable manifest" in out
    assert main(["checkpoints", f"run={run}"]) == 0
