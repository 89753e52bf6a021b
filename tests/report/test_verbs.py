"""`hires report` and `hires compare` as commands."""

import pytest

from hires import cli
from hires.report import page
from tests.report.fabricate import evaluation, write


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "a", grids=True)


def test_report_goes_into_the_run_or_where_it_is_told(run, tmp_path, capsys):
    assert cli.main(["report", f"run={run}"]) == 0
    assert cli.main(["report", f"run={run}", f"out={tmp_path}/new/page.html"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[0] for line in said] == [f"{run}/report.html", f"{tmp_path}/new/page.html"]
    assert all(line.endswith(" kB") for line in said)
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_report_that_fails_leaves_the_one_before(run, monkeypatch):
    (run / "report.html").write_text("before")
    monkeypatch.setattr(page, "render", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", f"run={run}"])
    assert (run / "report.html").read_text() == "before" and not list(run.glob(".*part"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["report", "run={0}/none"], "run={0}/none: no such folder"),
        (["report", "run={0}"], "run={0}: no run there"),
        (["report", "run={0}/a", "out=page.pdf"], "out=page.pdf: wanted the name of a .html file"),
        (["compare", "runs={0}/a"], "wanted at least two different runs"),
        (["compare", "runs={0}/a,{0}/a/"], "wanted at least two different runs"),
        (["compare", "runs={0}/a,{0}"], "runs={0}: no run there"),
        (["compare", "runs={0}/a,{0}/none"], "runs={0}/none: no such folder"),
        (["compare"], "runs=… not given"),
    ],
)
def test_mistakes_are_told_in_one_line(run, tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert cli.main([argument.format(tmp_path) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert told.format(tmp_path) in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


def test_measures_of_other_data_mark_no_best(run, tmp_path):
    """Another number of pictures is another measurement."""
    other = write(tmp_path / "b")
    evaluation(run, 1000, swd=[3.0])
    evaluation(other, 1000, swd=[4.0])
    out = tmp_path / "c.html"
    command = ["compare", f"runs={run},{other}", f"out={out}"]
    assert cli.main(command) == 0 and out.read_text().count("★") == 2  # in the heading, and the one
    for pictures, ones in (("200 samples", 2), ("5,000 samples", 1)):
        evaluation(run, 1000, kid_random0=3.0, pictures_random0="200 samples")
        evaluation(other, 1000, kid_random0=4.0, pictures_random0=pictures)
        assert cli.main(command) == 0 and out.read_text().count("★") == ones
    evaluation(run, 1000, swd=[3.0])
    evaluation(other, 1000, pictures=500, swd=[4.0])
    assert cli.main(command) == 0 and out.read_text().count("★") == 1


def test_levels_of_other_schedules_are_not_drawn(run, tmp_path):
    other, out = write(tmp_path / "b", None, "schedule.levels.4.stable=300"), tmp_path / "c.html"
    assert cli.main(["compare", f"runs={run},{other}", f"out={out}"]) == 0
    assert 'class="fade"' not in out.read_text()
    assert cli.main(["compare", f"runs={run},{write(tmp_path / 'same')}", f"out={out}"]) == 0
    assert 'class="fade"' in out.read_text()
