"""Bad input to sample, reconstruct, score and edit ends in one line, and nothing is written."""

from collections.abc import Callable

from PIL import Image
import pytest

from hires import cli, config

SEED = ["sample", "out=x.png"]
PAIR = ["reconstruct", "out=x.png", "from=good"]
RANK = ["score", "out=x.png", "from=good"]
MOVE = ["edit", "out=x.png", "from=good", "plus=good", "minus=good"]

# a command after `sampler=`, and words that the line must hold: the culprit, and what was wanted or found
TABLE = {
    "no out": (["sample"], ["out=", "not given"]),
    "no from": (["reconstruct", "out=x.png"], ["from=…", "not given"]),
    "an unknown key": ([*SEED, "seed=3"], ["seed"]),
    "from where there is none": ([*SEED, "from=good"], ["from"]),
    "another suffix": (["sample", "out=x.jpg"], ["out=x.jpg", ".png"]),
    "seeds that are none": ([*SEED, "seeds=one"], ["seeds=one", "0-63"]),
    "too many seeds": ([*SEED, "seeds=0-99999999"], ["seeds=0-99999999", "1,000,000"]),
    "no truncation": ([*SEED, "truncation=0"], ["truncation=0", "above 0"]),
    "another criterion": ([*SEED, "top_by=beauty"], ["top_by=beauty", "energy"]),
    "a share above 1": ([*SEED, "top_by=energy", "keep=1.5"], ["keep=1.5", "at most 1"]),
    "a share of nothing": ([*SEED, "keep=0.5"], ["keep=0.5", "top_by=energy"]),
    "a step of nothing": ([*SEED, "langevin.steps=3", "langevin.step_size=0"], ["langevin.step_size=0", "above 0"]),
    "a step too large": (
        [*SEED, "langevin.steps=99", "langevin.step_size=1e25", "langevin.space=latents"],
        ["langevin.step_size"],
    ),
    "another space": ([*SEED, "langevin.space=codes"], ["langevin.space=codes", "pictures or latents"]),
    "a wrong type": ([*SEED, "langevin.steps=many"], ["langevin.steps", "many"]),
    "another device": ([*SEED, "device=tpu"], ["device=tpu", "cuda"]),
    "no such GPU": ([*SEED, "device=cuda:77"], ["device=cuda:77", "GPUs here"]),
    "no such pictures": (["reconstruct", "out=x.png", "from=none"], ["none: no such file or folder"]),
    "a folder without": (["reconstruct", "out=x.png", "from=empty"], ["empty: no picture found"]),
    "text among them": (["reconstruct", "out=x.png", "from=good/0.png,bad.png"], ["bad.png", "no picture"]),
    "a sheet that is none": (["reconstruct", "out=x.pdf", "from=good"], ["out=x.pdf", ".png"]),
    "codes that are none": ([*PAIR, "codes=x.npz"], ["codes=x.npz", ".safetensors"]),
    "nothing to show": ([*PAIR, "show=0"], ["show=0"]),
    "a limit below 0": ([*PAIR, "limit=-1"], ["limit=-1"]),
    "no data": ([*RANK, "data=nowhere"], ["nowhere"]),
    "no training pictures": ([*RANK, "train=nowhere"], ["nowhere", "no such"]),
    "too few to compare with": ([*RANK, "images=1"], ["images=1", "at least 2"]),
    "strengths that are none": ([*MOVE, "strength=much"], ["strength=much", "0,0.5,1,1.5"]),
    "an infinite strength": ([*MOVE, "strength=0,inf"], ["strength=0,inf"]),
    "no rows": ([*MOVE, "show=0"], ["show=0"]),
    "no folder to add": (["edit", "out=x.png", "from=good", "plus=none", "minus=good"], ["none: no such"]),
    "no folder to take away": (["edit", "out=x.png", "from=good", "plus=good"], ["minus=…", "not given"]),
}


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """fails(verb, *overrides) -> the one line that it ended with; run where good/, empty/ and bad.png are, and nothing may be added."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "good" / "0.png")
    (tmp_path / "bad.png").write_text("hello")

    def run(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"hires {arguments[0]}: error: "), lines
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "empty", "good"]
        return lines[0].removeprefix(f"hires {arguments[0]}: error: ")

    return run


@pytest.mark.parametrize("arguments,words", TABLE.values(), ids=TABLE)
def test_bad_input(arguments, words, fails, sampler):
    text = fails(arguments[0], f"sampler={sampler}", *arguments[1:])
    assert all(word in text for word in words), text
    assert len(text) < 400 and "from_" not in text


@pytest.mark.parametrize("command", [SEED, PAIR, RANK, MOVE], ids=lambda command: command[0])
def test_a_sampler_that_is_none(command, fails):
    assert "sampler=good: good/config.json: missing" in fails(command[0], "sampler=good", *command[1:])
    assert "sampler=nowhere: no such folder" in fails(command[0], "sampler=nowhere", *command[1:])
    assert "sampler=…" in fails(*command)


def test_from_is_the_key_and_from_with_a_bar_its_field():
    given = ["sampler=b", "out=x.png"]
    assert config.load("reconstruct", [*given, "from=a.jpg,b c.jpg"]).from_ == "a.jpg,b c.jpg"
    assert config.load("reconstruct", [*given, "from=from=from.jpg"]).from_ == "from=from.jpg"
    assert config.load("reconstruct", [*given, "++from=7"]).from_ == "7"
