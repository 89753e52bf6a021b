"""experiments/claims.py: rows that are found again, the page of claims, verdicts; what a claim lacks is told in a line."""

from collections.abc import Iterator
import importlib
from pathlib import Path
import sys

import pytest

from hires import config as configuration
from hires.training import game
from hires.training.schedule import Schedule

SCRIPTS = ("p1_table1", "p2_table1", "p2_table3", "p2_table4", "p3_table1", "p3_table2", "p4_table2")


@pytest.fixture
def claims(tmp_path, monkeypatch) -> Iterator:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    found = importlib.import_module("claims")
    monkeypatch.setattr(found, "ROWS", tmp_path / "claims")
    monkeypatch.setattr(found, "PAGE", tmp_path / "claims.md")
    yield found
    for name in ("claims", "beside", "compare_systems", *SCRIPTS):
        sys.modules.pop(name, None)


def test_a_finished_part_is_found_by_what_it_is(claims):
    claims.add("x", {"part": "a", "seed": 0, "error": 3.0})
    claims.add("x", {"part": "a", "seed": 1, "error": 4.0})
    assert claims.there("x", part="a", seed=1)["error"] == 4.0
    assert claims.there("x", part="a", seed=2) is None and claims.there("y", part="a") is None


def test_a_claim_is_replaced_in_the_page_and_the_others_stay(claims):
    for name, text in (("x", "first"), ("y", "second"), ("x", "third")):
        claims.publish(name, text)
    page = claims.PAGE.read_text()
    assert "first" not in page and page.index("third") < page.index("second") and page.count("<!-- end of") == 2


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        ([1.0, 2.0], [3.0, 4.0], "holds"),
        ([3.0, 4.0], [1.0, 2.0], "does not hold"),
        ([1.0, 3.0], [2.0, 4.0], "within the spread"),
        ([1.0], [2.0, 3.0], "open, one seed for it"),
        ([2.0], [1.0], "open, one seed against it"),
        ([], [1.0], "open"),
    ],
)
def test_a_verdict_is_of_all_seeds(claims, better, worse, said):
    assert claims.verdict(better, worse) == said


@pytest.mark.parametrize("name", ["compare_systems", *SCRIPTS])
def test_a_claim_says_in_a_line_what_it_lacks(name, claims, tmp_path, capsys):
    script = importlib.import_module(name)
    for words, told in ((["data=nowhere"], "data=nowhere: not there.*hires prepare"), (["pace=3"], "pace=3: wanted data=")):
        with pytest.raises(SystemExit, match=told) as refusal:
            script.main(f"out={tmp_path}", *words)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["p3_table1", "p3_table2"])
def test_the_papers_own_size_is_told_as_commands(name, claims, capsys):
    importlib.import_module(name).main("scale=gpu")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) % 2 == 0 and all("network.width=1.0" in line and "stable=5" in line for line in lines[0::2])
    assert all(line.startswith("hires evaluate run=runs/claims/") for line in lines[1::2])


@pytest.mark.parametrize("name", ["p1_table1", "p2_table1", "p2_table3", "p2_table4", "p4_table2"])
def test_the_papers_own_size_is_of_commands_that_train(name, claims, capsys):
    importlib.import_module(name).main("scale=gpu", "seeds=0")
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith("hires train experiment=") and "network.width=1.0" in line for line in lines)
    for line in lines[:4]:  # each system's
        config = configuration.load("train", line.split()[2:])
        game.check(config, Schedule(config.schedule), 1)


def test_areas_are_ordered_from_the_larger_on(claims):
    script = importlib.import_module("p2_table4")
    told = {"prevalence": 0.35, "least": 0.2, "pictures": "1 strange, 2 usual", "commit": "abc", "machine": "a core", "date": "2026-01-01"}
    for system, score, area in (("latent_ebm", "pair_energy", 0.7), ("vae", "bound", 0.4)):
        for seed in (0, 1):
            row = {"seed": seed, "digit": 4, "system": system, "width": 0.25, "until": 60_000, "images": [60_000]}
            claims.add("p2_table4", row | {"auprc": {score: [area, area + 0.02 * seed]}} | told)
    text = script.text()
    assert "| **latent_ebm, pair_energy** | 60 k |  | 0.705 ± 0.007 (2) |" in text
    assert "| latent EBM before vae | 60 k | open | holds | open |" in text and "| by chance |  |  | 0.350 |" in text


def test_systems_are_compared_at_equal_updates_and_at_equal_time(claims):
    script, beside = importlib.import_module("p1_table1"), importlib.import_module("beside")
    where = {"width": 0.25, "precision": "fp32", "diversity": 0.5, "commit": "abc", "machine": "a core", "date": "2026-01-01"}
    for system, images, seconds, distance in (("triangle", 100, 60, 50.0), ("gan", 100, 30, 60.0), ("gan", 200, 60, 40.0)):
        row = {"seed": 0, "system": system, "images": images, "seconds": seconds, beside.FRECHET: distance}
        claims.add("p1_table1", row | where)
    text = script.TABLE.text()
    assert "| triangle before gan, samples | equal updates | open, one seed for it |" in text
    assert "| triangle before gan, samples | equal time | open, one seed against it |" in text
    claims.add("p1_table1", {"seed": 0, "system": "vae", "images": 100, "seconds": 9, beside.FRECHET: 9.0} | where | {"precision": "bf16"})
    assert "| triangle before vae, samples | equal time | open |" in script.TABLE.text()  # of another precision than the triangle
    for images, seconds, distance in ((100, 50, 55.0), (500, 250, 45.0), (600, 300, 10.0)):  # its generator steps in every fifth round
        row = {"seed": 0, "system": "wgan", "images": images, "seconds": seconds, beside.FRECHET: distance}
        claims.add("p1_table1", row | where)
    text = script.TABLE.text()
    assert "| triangle before wgan, samples | equal updates | open, one seed against it |" in text
    assert "| triangle before wgan, samples | equal time | open, one seed for it |" in text
    assert "| wgan | equal updates | 36.36 |  | 45.0 (1) |" in text


def test_a_table_tells_the_order(claims):
    script = importlib.import_module("p3_table2")
    epochs = script.SCALES["cpu"][4]
    where = {"commit": "abc", "machine": "a core", "date": "2026-01-01"}
    for rho, errors in (("none", (3.0, 3.2)), ("0.01", (2.5, 2.6)), ("0", (3.1, 3.5))):
        for seed, error in enumerate(errors):
            claims.add("p3_table2", {"part": "classifier", "rho": rho, "seed": seed, "epochs": epochs, "error": error} | where)
    claims.add("p3_table2", {"part": "classifier", "rho": "none", "seed": 0, "epochs": epochs + 1, "error": 50.0} | where)  # another size
    text = script.text()
    assert "| ρ = 0.01 | 1.7 | 2.55 ± 0.07 (2) |" in text
    assert "| ρ = 0.01 before none | holds |" in text and "| none before ρ = 0 | within the spread |" in text
    assert "| none before ρ = 1 | open |" in text


def test_systems_are_stretched_to_the_triangles_seconds_in_whole_rounds_and_told_in_order(claims):
    systems = importlib.import_module("compare_systems")
    words, images = systems.stretched(1.7)
    config = configuration.load("train", ["experiment=compare_32", *words])
    levels = Schedule(config.schedule).levels
    assert levels[-1].end == images == pytest.approx(1.7 * 44_000, rel=1e-3)
    assert all(count % level.config.batch == 0 for level in levels for count in (level.fade, level.end))
    rows = [("triangle", "updates", 5.0), ("gan", "updates", 6.0), ("gan", "time", 4.0), ("vae", "updates", 9.0)]
    for seed in (0, 1):
        for system, equal, distance in rows:
            found = {systems.FRECHET: distance + 0.1 * seed, f"{systems.FRECHET}_floor": 1.0, "diversity": 1.0}
            found |= {"images": 44_000, "seconds": 9}
            made = {"commit": "c", "machine": "m", "date": "d"}
            claims.add("compare_systems", {"seed": seed, "system": system, "equal": equal} | found | made)
    text = systems.text()
    for order in ("| triangle before gan | equal updates | holds |", "| gan before vae | equal updates | holds |"):
        assert order in text
    assert "| gan before triangle | equal time | holds |" in text and "vae before" not in text
