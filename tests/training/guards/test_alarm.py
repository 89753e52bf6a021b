"""The alarm warns long before an energy that runs away overflows, and lets a healthy run alone."""

import json
import math
import random

import pytest

from hires import config as configuration
from hires.training.guards.alarm import Alarm
from hires.training.trainer import DONE, Trainer


def line(image: int, gap: float = 3.0, size: float = 1.5, slope: float = 1.0, resolution: int = 8) -> dict:
    return {"images": image, "resolution": resolution, "energy_gap": gap, "energy_size": size, "energy_slope": slope}


def warnings(records: list[dict]) -> list[str]:
    alarm = Alarm()
    return [warning for record in records if (warning := alarm.see(record)[1])]


@pytest.mark.parametrize("measure", ["gap", "size", "slope"])
@pytest.mark.parametrize("growth", [1.05, 1.5, 4.0])
def test_what_grows_exponentially_is_told_long_before_it_overflows(measure, growth):
    start = 30  # lines of a healthy level before
    for sign in (1, -1):
        values = [sign * growth ** max(0, i - start) for i in range(start + int(math.log(1e38, growth)))]
        told = warnings([line(i, **{measure: value}) for i, value in enumerate(values)])
        at = int(told[0].split()[2])
        assert f"energy_{measure}" in told[0] and "level 8" in told[0] and "docs/training.md" in told[0]
        assert abs(values[at]) < 1e3 and at < start + math.log(1e38, growth) / 4
        assert len(told) < 45  # once for each FACTOR, not at each line


def test_a_healthy_series_with_noise_and_steps_at_the_levels_is_let_alone():
    """As measured: from nothing to its scale within a level, four times up or down at a growth, noise of a third."""
    dice = random.Random(0)
    records = []
    for resolution, scale in ((4, 1.0), (8, 2.0), (16, 0.5), (32, 2.0), (64, 0.6)):
        for i in range(200):
            rise = 1 - 0.95 * math.exp(-i / 20) if resolution == 4 else 1.0
            values = [scale * rise * m * dice.lognormvariate(0, 0.33) for m in (4.0, 2.0, 2.0)]
            records.append(line(len(records), *values, resolution=resolution))
    assert warnings(records) == []


def test_an_energy_that_has_died_is_told_once_and_marked_at_every_line():
    alarm = Alarm()
    seen = [alarm.see(line(i, gap=size / 5, size=size, slope=size)) for i, size in enumerate([*[50.0] * 20, 0.3, 0.01, *[0.0] * 80])]
    told = [warning for _, warning in seen if warning]
    assert len(told) == 1 and "alarm at 21 images" in told[0] and "flat" in told[0] and "usually 50" in told[0]
    assert [away for away, _ in seen[:21]] == [[]] * 21
    assert all(away == ["energy_flat"] for away, _ in seen[21:])


def test_a_system_without_energy_size_is_told_too():
    slopes = [0.01] * 20 + [1e-6]
    series = [{"images": i, "resolution": 32, "energy_gap": 0.7 * slope, "energy_slope": slope} for i, slope in enumerate(slopes)]
    assert "flat" in warnings(series)[0]


def test_at_the_beginning_of_a_level_the_level_below_says_what_is_usual():
    below = [line(i) for i in range(20)]
    assert warnings([*below, line(20, gap=-500.0, resolution=16)])
    assert not warnings([*below, line(20, gap=19.0, resolution=16)])  # large, yet nothing that does harm
    assert not warnings([line(0, gap=500.0)])  # nothing to compare with


def test_a_real_run_with_an_excessive_rate_is_warned_and_its_lines_are_marked(world, tiny, tmp_path, capsys):
    levels = ["schedule.levels.4.stable=192", "schedule.levels.8.lr=1", "train.max_images=256", "train.checkpoint_every=10k"]
    assert Trainer(configuration.load("train", [*tiny, *levels, f"run={tmp_path / 'run'}"]), world).train() == DONE
    told = [text for text in capsys.readouterr().out.splitlines() if text.startswith("alarm at ")]
    assert told and "level 8" in told[0] and "schedule.levels.8.lr" in told[0] and "usually" in told[0]
    records = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    marked = [record for record in records if "alarm" in record]
    assert marked and all(record["resolution"] == 8 for record in marked)
    assert {"energy_gap", "energy_size", "energy_slope"} >= set(marked[0]["alarm"]) > set()
