"""What measures are made of: shared among 1, 2 and 4 processes, the numbers are the same."""

import json
from pathlib import Path
import sys

import pytest
import torch

from hires.errors import HiresError
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from pipelines import Shards


@pytest.fixture(scope="module")
def worlds(labelled_digits, forks, clean_env, tmp_path_factory) -> dict[int, dict]:
    """What worlds of 1, 2 and 4 processes found."""
    out = tmp_path_factory.mktemp("worlds")
    script = Path(__file__).parents[1] / "processes" / "measure_ranks.py"
    done = forks.run([sys.executable, script, labelled_digits, out, 1, 2, 4], env=clean_env, timeout=300)
    assert done.returncode == 0, done.stderr
    return {size: json.loads((out / f"{size}.json").read_text()) for size in (1, 2, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_come_back_whole_and_in_order(worlds, size):
    assert worlds[size]["in_ranks"] == []


@pytest.mark.slow
def test_the_scores_do_not_depend_on_the_number_of_processes(worlds):
    assert worlds[1] == worlds[2] == worlds[4]
    assert worlds[1]["random"]["pictures_random0"] == "53 samples against 101 of train; floor: 53 of holdout"
    assert worlds[1]["random"]["frechet_random0"] > 2 * worlds[1]["random"]["frechet_random0_floor"]
    assert {"frechet_classifier_digits", "score_classifier_digits"} < set(worlds[1]["classifier"])


@pytest.mark.parametrize("held", [4e9, 1000.0])
def test_samples_are_pictures_and_each_is_its_seeds_drawn_once_where_they_fit(held, labelled_digits, monkeypatch):
    asked = []

    def draw(seeds: list[int]) -> torch.Tensor:
        asked.extend(seeds)
        return torch.stack([torch.linspace(-1.5, 1.5, 64).view(1, 8, 8) * (1 + seed) for seed in seeds])

    monkeypatch.setattr("hires.evaluation.material.HELD", held)
    material = Material(Subject("s", "", 0, 8, 1, 4, 1.0, torch.device("cpu"), draw=draw), Shards.open(labelled_digits), 10)
    material.at_once = 4
    one_by_one = material.of_samples(lambda x: x)
    samples = material.samples()
    assert torch.equal(one_by_one, samples) and torch.equal(material.of_samples(lambda x: x), samples)
    assert asked == list(range(10)) * (1 if held == 4e9 else 3)  # ten of them are 2,560 bytes
    levels = (samples + 1) * 127.5
    assert samples.abs().max() == 1 and torch.allclose(levels, levels.round(), atol=1e-4)
    assert torch.equal(material.drawn(), draw(list(range(10)))) and torch.equal(material.samples(3), samples[:3])


def test_samples_that_are_not_numbers_are_told(labelled_digits):
    subject = Subject("runs/a", "", 0, 8, 1, 4, 1.0, torch.device("cpu"), draw=lambda seeds: torch.full((len(seeds), 1, 8, 8), torch.nan))
    with pytest.raises(HiresError, match="runs/a: its samples are not all finite"):
        Material(subject, Shards.open(labelled_digits), 10).samples()
