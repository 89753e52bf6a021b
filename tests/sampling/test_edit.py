"""`hires edit`: arithmetic of mean codes, against cases that are known."""

import torch

from hires import cli
from hires.bundle.hires_bundle import load
from hires.ground.images import to_uint8
from hires.media.pictures import read_pictures
from hires.sampling.codes import edited, encode, mean_code, reconstruct
from hires.verbs import edit


def test_one_picture_minus_itself_plus_another_is_the_other(sampler, save_pictures, tmp_path):
    bundle = load(sampler)
    batch = read_pictures(str(save_pictures(tmp_path, 2)), 8, 3)
    (wanted,) = (part.reconstructions for part in reconstruct(bundle, [batch]))
    mu, _ = encode(bundle, batch[1])
    found = edited(bundle, mu[:1], mu[1] - mu[0], [0.0, 1.0])
    assert found.shape == (1, 2, 3, 8, 8)
    torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=0)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2


def test_the_mean_code_is_over_all_pictures_of_all_batches(sampler, save_pictures, tmp_path):
    bundle = load(sampler)
    names, pictures = read_pictures(str(save_pictures(tmp_path, 5)), 8, 3)
    mean, count = mean_code(bundle, [(names[:4], pictures[:4]), (names[4:], pictures[4:])])
    torch.testing.assert_close(mean, encode(bundle, pictures)[0].mean(0), atol=1e-5, rtol=1e-4)
    assert count == 5


def test_a_row_a_picture_and_a_column_a_strength_the_original_first(sampler, save_pictures, tmp_path, monkeypatch, capsys):
    bundle, seen = load(sampler), {}
    monkeypatch.setattr(edit, "save_sheet", lambda path, strips, captions, heads, title, columns: seen.update(strips=strips, heads=heads))
    plus, minus = save_pictures(tmp_path / "plus", 3, start=10), save_pictures(tmp_path / "minus", 2, start=20)
    mine = save_pictures(tmp_path / "mine", 3)
    command = ["edit", f"sampler={sampler}", f"plus={plus}", f"minus={minus}", f"from={mine}", f"out={tmp_path}/x.png"]
    assert cli.main([*command, "strength=-1,0,0.5", "show=2"]) == 0
    assert seen["heads"] == ["original", "-1", "0", "+0.5"]
    assert "mean code of 3 pictures" in capsys.readouterr().out
    _, pictures = read_pictures(str(mine), 8, 3)
    codes = {name: encode(bundle, read_pictures(str(tmp_path / name), 8, 3)[1])[0] for name in ("plus", "minus", "mine")}
    moved = codes["mine"][:2] - (codes["plus"].mean(0) - codes["minus"].mean(0))
    assert seen["strips"].shape == (2, 4, 3, 8, 8) and torch.equal(seen["strips"][:, 0], pictures[:2])
    with torch.no_grad():
        torch.testing.assert_close(seen["strips"][:, 1], bundle.generator(moved).clamp(-1, 1), atol=1e-4, rtol=0)
    assert to_uint8(seen["strips"][:, 3] - seen["strips"][:, 2]).unique().numel() > 1
