"""Reconstruction error: each picture's mean over pixels after clamping, the mean whatever the batches, the sheet, other distances."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

from PIL import Image
import pytest
import torch

from hires.errors import HiresError
from hires.evaluation import Settings, fidelity, reconstruction
from hires.evaluation.material import Material
from hires.evaluation.reconstruction import Config, errors, likeness
from hires.evaluation.subject import Subject
from pipelines import Shards

IMAGES = torch.rand(70, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def flatten(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def restore(z: torch.Tensor) -> torch.Tensor:
    return z.unflatten(1, (1, 8, 8))


def measured(generate, folder=None, at_once: int = 64, lpips: str = "", features: bool = False) -> dict:
    of = Subject("s", "", 0, 8, 1, 64, 1.0, torch.device("cpu"), decode=generate, encode=flatten)
    material = SimpleNamespace(subject=of, held_out=lambda: IMAGES, at_once=at_once, folder=folder, first=True)
    material.picture = partial(Material.picture, material)
    return reconstruction.measure(material, Settings(reconstruction=Config(features, lpips)))


def test_a_perfect_pair_has_no_error():
    assert measured(restore)["reconstruction_mse"] == 0


@pytest.mark.parametrize("at_once", [1, 32, 100])
def test_the_mean_image_scores_the_variance_whatever_the_batch(at_once):
    mean = IMAGES.mean(0)
    found = measured(lambda z: mean.expand(len(z), 1, 8, 8), at_once=at_once)
    assert found["reconstruction_mse"] == pytest.approx(IMAGES.var(0, correction=0).mean().item(), rel=1e-5)
    assert found["reconstruction_rmse"] == pytest.approx(found["reconstruction_mse"] ** 0.5) and found["reconstruction_pictures"] == 70


def test_values_out_of_range_are_clamped_before_they_are_compared():
    white = torch.ones(4, 1, 8, 8)
    assert errors(lambda z: restore(z) * 5, flatten, white).tolist() == [0] * 4


def test_no_graph_is_kept():
    scale, asked = torch.ones((), requires_grad=True), []
    measured(lambda z: asked.append((z * scale).requires_grad) or restore(z))
    assert asked == [False, False]


def test_the_sheet_goes_from_best_to_worst(tmp_path):
    """Pictures given back with their column's mean lifted by their place: the last is the worst."""
    place = {row.tolist()[0]: i / 100 for i, row in enumerate(IMAGES.flatten(1))}
    found = measured(lambda z: restore((z + torch.tensor([place[row.tolist()[0]] for row in z])[:, None]).clamp(-1, 1)), tmp_path)
    sheet = Image.open(tmp_path / found["reconstruction_sheet"]).convert("L")
    assert sheet.width > 8 * 2 * 128 and sheet.height > 6 * 128
    first, last = (sheet.crop((x, y, x + 128, y + 128)) for x, y in ((16, 66), (16 + 132, 66)))
    assert list(first.getdata()) == list(last.getdata())  # the best: given back as it was


def test_a_wrong_size_and_numbers_that_are_none_are_refused():
    with pytest.raises(HiresError, match="differ in size"):
        measured(lambda z: restore(z)[..., :4])
    with pytest.raises(HiresError, match="70 reconstructions are not finite"):
        measured(lambda z: restore(z) / 0 * 0)


def test_a_distance_of_ones_own(tmp_path):
    class Distance(torch.nn.Module):
        def forward(self, x, y):
            if x.shape[1] != 3:
                raise ValueError("three channels")
            return (x - y).abs().mean((1, 2, 3), keepdim=True)

    torch.jit.script(Distance()).save(str(tmp_path / "d.pt"))
    found = measured(lambda z: restore(z * 0), lpips=str(tmp_path / "d.pt"))
    assert found["reconstruction_lpips"] == pytest.approx(IMAGES.abs().mean().item(), rel=1e-5)
    (tmp_path / "none.pt").write_text("none")
    for path in ("none.pt", "missing.pt"):
        with pytest.raises(HiresError, match=r"^reconstruction\.lpips=[^\n]*$"):
            measured(restore, lpips=str(tmp_path / path))


def test_likeness_by_hand(monkeypatch):
    real = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 7  # what all share does not count
    turned = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]) + 7
    monkeypatch.setattr(reconstruction, "ROWS", 3)
    told = likeness(torch.cat([real, torch.rand(4, 3)], 1), torch.cat([turned, torch.rand(4, 3)], 1), classes=3)
    assert told == {"cosine": pytest.approx((0.5**0.5 + 1 + 1 + 0) / 4), "found": 0.5}  # the first lies between two, the last is another


def by_features(shards: Path, tmp_path: Path, decode) -> dict:
    of = Subject("s", "", 0, 8, 1, 64, 1.0, torch.device("cpu"), decode=decode, encode=flatten)
    settings = Settings(metrics=fidelity.Config("random:0", cache=str(tmp_path)), reconstruction=Config(features=True))
    return reconstruction.measure(Material(of, Shards.open(shards), 150), settings)


def test_pictures_are_found_again_by_features_where_each_has_its_own(labelled_digits, tmp_path):
    made = []
    same = by_features(labelled_digits, tmp_path, lambda z: made.append(len(z)) or restore(z))
    assert sum(made) == 150  # one pass for error and features
    assert same["reconstruction_cosine_random0"] == pytest.approx(1, abs=1e-6) and same["reconstruction_found_random0"] > 0.98
    blurred = by_features(labelled_digits, tmp_path, lambda z: restore(z).mean((2, 3), keepdim=True).expand(-1, 1, 8, 8))
    next_one = by_features(labelled_digits, tmp_path, lambda z: restore(z.roll(1, 0)))
    assert next_one["reconstruction_found_random0"] < 0.02 > abs(blurred["reconstruction_found_random0"] - 1 / 150)
    assert next_one["reconstruction_cosine_random0"] < 0.2


def test_features_need_their_network(monkeypatch):
    monkeypatch.delenv("HIRES_INCEPTION", raising=False)
    of = Settings(metrics=fidelity.Config("efficent"), reconstruction=Config(features=True))
    with pytest.raises(HiresError, match=r"metrics\.features=efficent: wanted inception, efficientnet"):
        reconstruction.check(of)
    reconstruction.check(Settings(metrics=fidelity.Config("efficent")))  # nobody asked for it
    with pytest.raises(HiresError, match=r"^reconstruction\.features=true: no weights: say metrics\.weights"):
        measured(restore, features=True)
