"""`hires score`: energies, their rank among held-out ones, table and histogram."""

import csv

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
import torch

from hires import cli
from hires.bundle.hires_bundle import load
from hires.errors import HiresError
from hires.media.pictures import read_pictures
from hires.sampling.scoring import draw_histogram, energies, share_above, write_table
from pipelines import PrepareConfig, SplitConfig, prepare


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_share_above_is_counted(values, reference):
    wanted = [np.mean([(r > v) + 0.5 * (r == v) for r in reference]) for v in values]
    np.testing.assert_allclose(share_above(np.array(values, float), np.array(reference, float)), wanted, atol=1e-12)


def test_pictures_like_the_held_out_ones_are_spread_evenly():
    random = np.random.default_rng(0)
    above = share_above(random.normal(3, 2, 4000), random.normal(3, 2, 4000))
    assert np.mean(above < 0.05) == pytest.approx(0.05, abs=0.02) and np.mean(above) == pytest.approx(0.5, abs=0.03)


def test_the_table_and_the_histogram_of_a_folder(sampler, save_pictures, tmp_path, capsys):
    files = save_pictures(tmp_path / "files", 30, size=16)
    split = SplitConfig(holdout=10)
    prepare(PrepareConfig(path=str(files), out=str(tmp_path / "data"), resolution=16, split=split, workers=1))
    mine = save_pictures(tmp_path / "mine", 4, size=16, start=50)
    command = ["score", f"sampler={sampler}", f"from={mine}", f"data={tmp_path}/data", f"out={tmp_path}/out/score.png"]
    assert cli.main(command) == 0
    told = capsys.readouterr().out
    assert "of 4 pictures have more energy than 95% of the 10 held-out ones (0 would be expected" in told
    with (tmp_path / "out" / "score.csv").open() as file:
        rows = list(csv.DictReader(file))
    names, pictures = read_pictures(str(mine), 8, 3)
    _, held_out = read_pictures(str(tmp_path / "data"), 8, 3)
    with torch.no_grad():
        wanted, others = load(sampler).energy(pictures), load(sampler).energy(held_out)
    assert [row["name"] for row in rows] == names and len(others) == 10
    assert [float(row["energy"]) for row in rows] == pytest.approx(wanted.tolist(), abs=1e-5)
    shares = [(others > value).float().mean().item() for value in wanted]
    assert [float(row["heldout_above"]) for row in rows] == pytest.approx(shares, abs=1e-3)
    assert Image.open(tmp_path / "out" / "score.png").size == (960, 540)


def test_without_other_pictures_there_is_no_rank(sampler, save_pictures, tmp_path, capsys):
    mine = save_pictures(tmp_path / "mi$ne_$x", 2)  # a name that matplotlib would take for a formula
    assert cli.main(["score", f"sampler={sampler}", f"from={mine}", f"out={tmp_path}/score.png"]) == 0
    assert (tmp_path / "score.csv").read_text().splitlines()[0] == "name,energy"
    assert "held-out" not in capsys.readouterr().out


def test_a_folder_called_training_is_not_taken_for_the_training_set(sampler, save_pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "training", 3)
    save_pictures(tmp_path / "others", 5, start=50)
    assert cli.main(["score", f"sampler={sampler}", "from=training", "train=others", "out=score.png"]) == 0
    counts = [line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert counts == ["3", "5"]


def test_a_plain_folder_is_not_both_sets(sampler, save_pictures, tmp_path, capsys):
    mine = save_pictures(tmp_path / "mine", 2)
    assert cli.main(["score", f"sampler={sampler}", f"from={mine}", f"data={mine}", f"out={tmp_path}/score.png"]) == 1
    assert f"data={mine}: not what hires prepare wrote" in capsys.readouterr().err and not (tmp_path / "score.csv").exists()


def test_an_energy_that_is_no_number_names_the_picture(sampler, monkeypatch):
    bundle = load(sampler)
    monkeypatch.setattr(bundle, "energy", lambda x: torch.tensor([1.0, float("inf")]))
    with pytest.raises(HiresError, match=r"b\.png: its energy is inf"):
        energies(bundle, [(["a.png", "b.png"], torch.zeros(2, 3, 8, 8))])


def test_one_value_and_an_odd_name_are_drawn_and_written(tmp_path):
    draw_histogram(tmp_path / "one.png", {"$a_b$": np.array([0.5])}, "_$")
    write_table(tmp_path / "t.csv", ['a "quoted", name.png'], np.array([0.25]), None)
    with (tmp_path / "t.csv").open() as file:
        assert list(csv.reader(file)) == [["name", "energy"], ['a "quoted", name.png', "0.25"]]
