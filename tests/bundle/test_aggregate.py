"""The Gaussian of the codes: its moments, a bundle that holds it, and what cannot be, in one line."""

from base64 import b64decode
import io
import json
import shutil

import numpy as np
from PIL import Image
import pytest
import torch

from hires import config as configuration
from hires.bundle import from_run, hires_bundle
from hires.bundle.aggregate import fit
from hires.cli import main
from hires.errors import HiresError
from hires.evaluation.material import Material
from hires.evaluation.subject import of_bundle, of_networks
from hires.explore.model import Explorer
from hires.training.trainer import Trainer
from pipelines import PrepareConfig, Shards, SplitConfig, prepare

D = 6


def codes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    dice = torch.Generator().manual_seed(count)
    mu = torch.randn(count, D, generator=dice) @ torch.randn(D, D, generator=dice) + 2
    return mu, torch.randn(count, D, generator=dice)


def of_rows(mu: torch.Tensor, logvar: torch.Tensor):
    """A posterior of `pictures` that are the numbers of rows."""
    return lambda rows: (mu[rows], logvar[rows])


def test_the_moments_are_those_of_all_draws_however_they_come():
    mu, logvar = codes(50)
    at_once = fit(of_rows(mu, logvar), [torch.arange(50)])
    streamed = fit(of_rows(mu, logvar), torch.arange(50).split(7))
    covariance = np.cov(mu.numpy().T) + np.diag(logvar.exp().mean(0))  # the law of total variance
    for one in (at_once, streamed):
        assert np.allclose(one.mean, mu.mean(0), atol=1e-5)
        assert np.allclose(one.factor @ one.factor.T, covariance, rtol=1e-4, atol=1e-4) and torch.equal(one.factor, one.factor.T)
    mean, spread = torch.distributions, torch.from_numpy(covariance)
    wanted = mean.kl_divergence(
        mean.MultivariateNormal(mu.mean(0).double(), spread), mean.MultivariateNormal(torch.zeros(D).double(), torch.eye(D).double())
    )
    assert at_once.kl == pytest.approx(wanted.item() / D, rel=1e-5) and not at_once.diagonal


def test_no_more_pictures_than_dimensions_give_a_diagonal_and_one_gives_a_line():
    few = fit(of_rows(*codes(D)), [torch.arange(D)])
    assert few.diagonal and few.told()["diagonal"] and few.factor.count_nonzero() == D
    with pytest.raises(HiresError, match="moments of 1 pictures"):
        fit(of_rows(*codes(1)), [torch.arange(1)])
    with pytest.raises(HiresError, match="not all finite"):
        fit(of_rows(torch.full((9, D), torch.inf), torch.zeros(9, D)), [torch.arange(9)])


@pytest.fixture(scope="module")
def bundles(world, tiny, tmp_path_factory):
    """A run exported with moments and without."""
    folder = tmp_path_factory.mktemp("aggregate")
    prepare(PrepareConfig(source="digits", out=str(folder / "data"), resolution=8, workers=1, split=SplitConfig(holdout=60)))
    assert Trainer(configuration.load("train", [*tiny, f"data.root={folder / 'data'}", f"run={folder / 'run'}"]), world).train() == 0
    for name, settings in (("with", ["moments=300"]), ("without", ["moments=0"])):
        assert main(["export", f"run={folder / 'run'}", f"out={folder / name}", *settings]) == 0
    return folder


def test_a_bundle_draws_from_either_prior_and_says_how_far_they_are_apart(bundles, tmp_path):
    bundle, old = hires_bundle.load(bundles / "with"), hires_bundle.load(bundles / "without")
    seeds = list(range(5))
    mean, factor = bundle.aggregate["mean"], bundle.aggregate["factor"]
    wanted = bundle.generator(torch.stack([mean + factor @ w for w in old.latents(seeds)])).clamp(-1, 1)
    assert torch.allclose(bundle.sample(seeds), wanted, atol=1e-5) and not torch.allclose(old.sample(seeds), wanted, atol=1e-3)
    assert torch.equal(bundle.sample(seeds, prior="aggregate"), bundle.sample(seeds))
    assert torch.equal(bundle.sample(seeds, prior="standard"), old.sample(seeds))
    assert torch.allclose(of_bundle(bundle, "b").draw(seeds).clamp(-1, 1), bundle.sample(seeds))
    ends = bundle.walk([0, 3], steps=4)[[0, -1]], old.walk([0, 3], steps=4)[[0, -1]]
    assert torch.allclose(ends[0], wanted[[0, 3]], atol=1e-5) and torch.allclose(ends[1], old.sample([0, 3]), atol=1e-5)
    config = json.loads((bundles / "with" / "config.json").read_text())
    assert config["aggregate"]["pictures"] == 300 and "aggregate.safetensors" in config["sha256"]
    card = (bundles / "with" / "README.md").read_text()
    assert f"{config['aggregate']['kl_per_dimension']:.3g} nats a dimension" in card and "300 training pictures" in card
    assert "aggregate" not in (bundles / "without" / "README.md").read_text()
    for name, settings in (("own", []), ("standard", ["prior=standard"]), ("aggregate", ["prior=aggregate"])):
        assert main(["sample", f"sampler={bundles / 'with'}", f"out={tmp_path / name}/", "seeds=0-1", *settings]) == 0
    own, standard, aggregate = ((tmp_path / name / "seed000000.png").read_bytes() for name in ("own", "standard", "aggregate"))
    assert own == aggregate != standard


def test_a_run_is_measured_as_its_export_is(bundles, tmp_path, capsys, monkeypatch):
    """A run has no moments stored: they are fitted anew, and the same numbers come out, from either prior."""
    monkeypatch.setattr("hires.evaluation.material.MOMENTS", 300)

    def found(*words: str) -> dict:
        out = tmp_path / "record.json"
        assert main(["evaluate", f"data={bundles / 'data'}", "measure=diversity,swd", "images=20", f"out={out}", *words]) == 0
        return json.loads(out.read_text())

    of_run, of_bundle = found(f"run={bundles / 'run'}"), found(f"sampler={bundles / 'with'}")
    assert of_run["prior"] == of_bundle["prior"] == "aggregate"
    standard = found(f"run={bundles / 'run'}", "prior=standard"), found(f"sampler={bundles / 'without'}")
    assert [one["prior"] for one in standard] == ["standard", "standard"]
    for one, other in ((of_run, of_bundle), standard):
        assert one["diversity"] == pytest.approx(other["diversity"], rel=1e-3) and one["swd"] == pytest.approx(other["swd"], rel=1e-2)
    assert abs(of_run["diversity"] - standard[0]["diversity"]) > 1e-2 * of_run["diversity"]
    assert "kept separately: it is based on 20 pictures of" in capsys.readouterr().out


def test_numbers_of_two_priors_do_not_mix_and_none_is_lost(bundles, tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(bundles / "run", run, ignore=shutil.ignore_patterns("evaluation-*", "measures-*"))
    prepare(PrepareConfig(source="digits", out=str(elsewhere), resolution=8, workers=1, split=SplitConfig(holdout=60, seed=1)))

    def measure(names: str, *words: str, data=bundles / "data") -> None:
        assert main(["evaluate", f"run={run}", f"data={data}", f"measure={names}", "images=20", *words]) == 0

    def kept() -> list[tuple[str, set[str]]]:
        paths = sorted(run.glob("evaluation-*.json")) + sorted(run.glob("measures-*/evaluation-*.json"))
        records = [json.loads(path.read_text()) for path in paths]
        return [(record.get("prior", ""), {"swd", "diversity", "reconstruction_mse"} & record.keys()) for record in records]

    measure("reconstruction")  # draws nothing, so it fits beside samples of either prior
    measure("diversity", "prior=standard")
    assert kept() == [("standard", {"reconstruction_mse", "diversity"})]
    measure("diversity")  # as the export draws: that record is what the card and the report show
    assert kept() == [("aggregate", {"diversity"}), ("standard", {"reconstruction_mse", "diversity"})]
    measure("reconstruction")
    measure("swd", "prior=standard")
    measure("diversity", data=elsewhere)
    assert kept() == [
        ("aggregate", {"reconstruction_mse", "diversity"}),
        ("standard", {"diversity"}),
        ("standard", {"reconstruction_mse", "diversity", "swd"}),
    ]


def test_codes_that_cannot_be_fitted_are_said_each_time(bundles, world):
    loaded = from_run.load(str(bundles / "run"))
    for parameter in loaded.networks["inference"].parameters():
        parameter.data.fill_(torch.nan)
    of = of_networks(loaded.networks, loaded.config.objective, "a", loaded.images, (8, 1, 8), 1.0, torch.device("cpu"))
    material = Material(of, Shards.open(str(bundles / "data")), 20, codes=True)
    for _ in range(2):
        with pytest.raises(HiresError, match="not all finite"):
            material.drawn()


def test_walks_and_the_page_draw_seeds_from_the_same_prior(bundles, tmp_path):
    bundle, frames = hires_bundle.load(bundles / "with"), tmp_path / "frames"
    words = ["path=linear", "loop=false", "fps=1", "seconds_per_key=2", f"size={bundle.resolution}"]
    assert main(["video", f"sampler={bundles / 'with'}", f"out={frames}/", "seeds=4,7", *words]) == 0
    w = bundle.latents([4, 7], "standard")
    wanted = bundle.generator(bundle.place(torch.stack([w[0], w.mean(0), w[1]]), "aggregate"))
    for file, picture in zip(sorted(frames.glob("*.png")), wanted, strict=True):
        assert same(file, picture)
    page = Explorer(bundle, "b")
    (drawn,) = page.sample([7], 0.5)
    half = bundle.generator(bundle.place(0.5 * w[1:], "aggregate"))[0]
    for address in (drawn["picture"], page.decode([{"seed": 7}], truncation=0.5)["picture"]):
        assert same(io.BytesIO(b64decode(address.partition(",")[2])), half)


def same(file, picture: torch.Tensor) -> bool:
    """Whether a PNG is a float picture (C, H, W) in [-1, 1], to one level of 255."""
    found = np.asarray(Image.open(file).convert("RGB")).astype(float)
    wanted = ((picture.clamp(-1, 1) + 1) * 127.5).round().expand(3, -1, -1).permute(1, 2, 0).numpy()
    return np.abs(found - wanted).max() <= 1


def test_what_cannot_be_is_told_in_a_line(bundles, tmp_path, capsys):
    def told(*words: str) -> str:
        assert main(list(words)) != 0
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    out = f"out={tmp_path / 'out'}"
    assert "holds no moments" in told("sample", f"sampler={bundles / 'without'}", f"{out}/", "prior=aggregate")
    assert "wanted standard or aggregate" in told("sample", f"sampler={bundles / 'with'}", f"{out}/", "prior=normal")
    wanted = ("evaluate", f"data={tmp_path}", "prior=aggregate")
    assert "holds no moments" in told(*wanted, f"sampler={bundles / 'without'}")
    elsewhere = tmp_path / "elsewhere"
    prepare(PrepareConfig(source="digits", out=str(elsewhere), resolution=8, workers=1, split=SplitConfig(holdout=60, seed=1)))
    assert "holds other pictures" in told("evaluate", f"data={elsewhere}", "prior=aggregate", f"run={bundles / 'run'}")
    assert "wanted standard or aggregate" in told("evaluate", f"data={elsewhere}", "prior=normal", f"run={bundles / 'run'}")
    assert "moments=-1" in told("export", f"run={bundles / 'run'}", out, "moments=-1")
    assert "holds no moments" in told("explore", f"sampler={bundles / 'without'}", "prior=aggregate")
    assert "a code is a latent" in told("video", f"sampler={bundles / 'with'}", f"{out}.mp4", "codes=none", "prior=standard")
    broken = shutil.copytree(bundles / "with", tmp_path / "broken")
    shutil.copyfile(bundles / "with" / "energy.safetensors", broken / "aggregate.safetensors")
    assert "aggregate.safetensors" in told("sample", f"sampler={broken}", f"{out}/")
    (broken / "aggregate.safetensors").unlink()
    assert "aggregate.safetensors: missing" in told("sample", f"sampler={broken}", f"{out}/")
    assert not (tmp_path / "out").exists()


def test_large_pictures_give_moments_only_where_asked(bundles, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hires.verbs.export.LARGEST", 4)
    for name, settings, prior in (("unasked", [], "standard"), ("asked", ["moments=20"], "aggregate")):
        assert main(["export", f"run={bundles / 'run'}", f"out={tmp_path / name}", *settings]) == 0
        assert hires_bundle.load(tmp_path / name).prior == prior
        assert ("at 8x8 moments=4000 would take long" in capsys.readouterr().out) == (prior == "standard")


def test_a_run_whose_pictures_are_gone_is_exported_and_the_reason_told(bundles, tmp_path, capsys):
    (bundles / "data").rename(bundles / "gone")
    try:
        asked = main(["export", f"run={bundles / 'run'}", f"out={tmp_path / 'a'}", "moments=9"])
        unasked = main(["export", f"run={bundles / 'run'}", f"out={tmp_path / 'b'}"])
    finally:
        (bundles / "gone").rename(bundles / "data")
    told = capsys.readouterr()
    assert asked != 0 and told.err.count("\n") == 1 and str(bundles / "data") in told.err and not (tmp_path / "a").exists()
    assert unasked == 0 and "come from N(0, I)" in told.out and str(bundles / "data") in told.out
    assert hires_bundle.load(tmp_path / "b").prior == "standard"
