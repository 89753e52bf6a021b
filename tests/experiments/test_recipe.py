"""experiments/recipe.py: the parts of a row."""

from collections.abc import Iterator
import importlib
import json
from pathlib import Path
import sys

import pytest
from sklearn.metrics import roc_auc_score
import torch


@pytest.fixture(scope="module")
def recipe() -> Iterator:
    folder = str(Path(__file__).parents[2] / "experiments")
    sys.path.insert(0, folder)
    yield importlib.import_module("recipe")
    sys.path.remove(folder)


def test_the_area_is_scikit_learns(recipe):
    above, below = torch.randn(50) + 0.5, torch.randn(70)
    wanted = roc_auc_score([1] * 50 + [0] * 70, torch.cat([above, below]))
    assert recipe.auroc(above, below) == pytest.approx(wanted)


def test_shuffled_blocks_are_the_pictures_own(recipe):
    x = torch.rand(2, 3, 16, 16)
    made = recipe.strangers(x)["shuffled blocks, 4×4 of them"]
    assert torch.equal(made.flatten(1).sort().values, x.flatten(1).sort().values) and not torch.equal(made, x)
    corners = {tuple(block[:, 0, 0].tolist()) for block in made[0].unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).flatten(0, 1)}
    assert corners == {tuple(x[0, :, i, j].tolist()) for i in range(0, 16, 4) for j in range(0, 16, 4)}


def test_a_fork_holds_the_checkpoint_alone(recipe, tmp_path):
    checkpoint = tmp_path / "one" / "checkpoints" / "images-000000000048"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    recipe.fork(tmp_path, "one:48", tmp_path / "two")
    assert [p.name for p in (tmp_path / "two").rglob("*") if p.is_file()] == ["manifest.json"]


def test_the_logs_numbers_are_those_of_the_end_of_the_level(recipe, tmp_path):
    records = [{"images": 0, "start": 1}]
    records += [{"images": i, "resolution": 8, "alpha": 1.0, "seconds_per_kimg": 1.0, "rho": float(i)} for i in range(1, 11)]
    records += [{"images": 11, "resolution": 8, "alpha": 1.0, "measured": {}}, {"images": 99, "resolution": 8, "alpha": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert recipe.last_measures(tmp_path, 11) == {"rho": 9.5, "seconds_per_kimg": 1.0}


def test_a_row_of_the_table_tells_every_point_of_both_curves(recipe):
    point = {"fd": 116.44, "diversity": 0.921, "recall": 0.4, "swd": [50.2, 59.0], "burnt": 0.1}
    row = {"name": "w4", "settings": ["objective.energy_weight=4"], "start": "base:40000", "resolution": 16, "images": 96000}
    row |= {"curve": {"prior 1": point, "aggregate 1": point | {"fd": 85.2}, "aggregate 0.8": point | {"fd": 74.1}}}
    row |= {"mse_report": 0.0514, "found": 0.0123}
    row |= {"log": {"rho": 1.2}, "energy": {"auroc_noise": 0.03}, "verdict": "better"}
    _, _, prior, aggregate = recipe.table([row]).splitlines()
    assert "| w4 | `energy_weight=4`, from base:40000 | 16 | 96 k | prior | ×1: **116.4** (0.92, 0.40) | 50/59 |" in prior
    assert "×1: **85.2** (0.92, 0.40); ×0.8: **74.1** (0.92, 0.40)" in aggregate and "| 0.0514 | 0.012 | 1.20 |" in aggregate
    assert aggregate.endswith("| 0.03 | better |")
