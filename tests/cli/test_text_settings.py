"""Settings that are text are taken as they were typed; nothing in them is read as a number, a list or a reference."""

from pathlib import Path

import pytest

from hires import cli
from hires import config as configuration
from hires.errors import HiresError
from hires.training.settings import run_config, to_dict
from hires.verbs import call


def loaded(*overrides: str):
    return configuration.load("train", ["experiment=digits", "data.root=d", *overrides])


TEXTS = ["20241129_1530", "1.10", "1e3", "0x10", "[ab]", "{a:1}", "null", "true", "a${b}", r"a\${b}", "a=b, c", " x ", "it's"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_folders_name_is_taken_as_it_is_and_kept_in_the_runs_configuration(text):
    config = loaded(f"run={text}")
    assert config.run == text
    assert run_config(to_dict(config)).run == text


def test_text_deeper_inside_and_lists_of_seeds():
    assert loaded("run=x", "schedule.levels.4.stable=012").schedule.levels["4"].stable == "012"
    assert configuration.load("sample", ["sampler=b", "out=o", "seeds=007"]).seeds == "007"


def test_a_level_that_is_taken_out_is_gone_with_its_texts():
    levels = loaded("run=x", "schedule.levels.32.stable=9k", "~schedule.levels.32", "schedule.resolution=16").schedule.levels
    assert "32" not in levels and "16" in levels


def test_the_environment_can_be_referred_to(monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    config = loaded("run=runs/seed-${oc.env:SLURM_ARRAY_TASK_ID}", "train.seed=${oc.env:SLURM_ARRAY_TASK_ID}")
    assert (config.run, config.train.seed) == ("runs/seed-7", 7)


def test_quotes_as_hydra_takes_them_still_hold():
    assert loaded("run='my run'").run == "my run"


def test_the_home_folder_is_expanded_wherever_a_path_begins(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert loaded("run=~/x").run == "/home/ann/x"
    assert configuration.load("reconstruct", ["sampler=~", "from=~/a.jpg,~/b.jpg", "out=o~x"]).from_ == "/home/ann/a.jpg,/home/ann/b.jpg"
    assert configuration.load("reconstruct", ["sampler=~", "from=a", "out=o~x"]).out == "o~x"


@pytest.mark.parametrize("verb", [*cli.VERBS, "video_growth"])
def test_where_a_value_is_needed_an_empty_one_is_refused(verb):
    """Every text without a default, of every verb: what an unset shell variable leaves."""
    needed = [f.name for f in configuration.schema_of(verb).__dataclass_fields__.values() if f.type is str and f.default == "???"]
    for name in needed:
        key = name.removesuffix("_") if name == configuration.FROM else name
        for empty in ("", " "):
            with pytest.raises(HiresError, match=rf"{key}= is empty"):
                configuration.load(verb, [f"{key}={empty}"])


@pytest.mark.parametrize("words", ["demo out=", "compare runs=a,b out=", "score sampler=a from=b out=", "prepare source=digits out="])
def test_a_place_that_has_a_default_may_not_be_empty_either(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, *settings = words.split()
    with pytest.raises(HiresError, match=r"^out="):
        call(verb, settings)
    assert not list(tmp_path.iterdir())


def test_nothing_is_made_in_the_current_folder(hires, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = hires("train", "experiment=digits", "data.root=d", "run=")
    assert done.returncode == 1 and done.stderr.startswith("hires train: error: run= is empty") and not list(Path(tmp_path).iterdir())
