"""What a bundle's object does: its methods against the networks themselves, and one line where it cannot."""

from dataclasses import replace

import pytest
import torch

from hires.bundle.hires_bundle import Bundle, load, pictures_at_once
from hires.sampling.paths import keyframe_path


@pytest.fixture(scope="module")
def bundle(sampler) -> Bundle:
    return load(sampler)


@pytest.fixture(scope="module")
def x(bundle) -> torch.Tensor:
    """More pictures than one pass takes."""
    count = pictures_at_once(bundle.resolution) + 3
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert not found.requires_grad and wanted.std() > 1e-4
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_methods_are_the_networks_a_part_at_a_time(bundle, x):
    with torch.no_grad():
        mu, logvar = bundle.inference(x)
        close(bundle.infer(x)[0], mu)
        close(bundle.infer(x)[1], logvar)
        close(bundle.score(x), bundle.energy(x))
        close(bundle.decode(3 * mu), bundle.generator(3 * mu).clamp(-1, 1))
        close(bundle.reconstruct(x), bundle.generator(mu).clamp(-1, 1))
        close(bundle.sample(range(5)), bundle.generator(bundle.latents(range(5))).clamp(-1, 1))


def test_samples_are_of_any_list_of_seeds_and_in_range(bundle):
    loud = replace(bundle, generator=lambda z: 5 * bundle.generator(z))
    assert loud.sample(range(9)).abs().max() == 1
    assert torch.equal(bundle.sample(iter([4, 2])), bundle.sample([4, 2]))
    assert bundle.sample([]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("loop", [False, True])
def test_a_walk_is_the_path_of_a_clip(bundle, loop):
    """Frame by frame the great circles of `hires video`, from seeds as from latents."""
    keys = bundle.latents([1, 5, 9])
    with torch.no_grad():
        wanted = bundle.generator(keyframe_path(keys, 7, "slerp", loop)).clamp(-1, 1)
    close(bundle.walk([1, 5, 9], steps=7, loop=loop), wanted)
    close(bundle.walk(keys, steps=7, loop=loop), wanted)
    assert len(wanted) == (21 if loop else 15)


@pytest.mark.parametrize(
    ("lacking", "call", "said"),
    [
        ("generator", lambda b, x: b.reconstruct(x), "this bundle has no generator"),
        ("generator", lambda b, x: b.walk([1, 2]), "this bundle has no generator"),
        ("inference", lambda b, x: b.infer(x), "this bundle has no inference model"),
        ("inference", lambda b, x: b.reconstruct(x), "this bundle has no inference model"),
        ("energy", lambda b, x: b.score(x), "this bundle has no energy"),
    ],
)
def test_what_a_system_does_not_train_is_named(bundle, x, lacking, call, said):
    info = {"info": {"system": "vae"}}
    with pytest.raises(ValueError, match=rf"^{said} \(objective=vae trains none\)$"):
        call(replace(bundle, config=bundle.config | info, **{lacking: None}), x)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x: (x * 127).to(torch.uint8), "pictures of type torch.uint8: wanted a float tensor"),
        (lambda x: (x + 1) * 127.5, "wanted numbers in [-1, 1]; of bytes, x / 127.5 - 1"),
        (lambda x: x * torch.nan, "pictures from nan to nan"),
        (lambda x: x.numpy(), "pictures of type ndarray"),
        (lambda x: x[0], "images of shape (3, 8, 8): wanted (B, 3, 8, 8)"),
        (lambda x: x[:, :1], "images of shape (64, 1, 8, 8): wanted (B, 3, 8, 8)"),
    ],
)
def test_what_is_no_picture_is_told_in_a_line(bundle, x, wrong, said):
    for method in (bundle.infer, bundle.score, bundle.reconstruct):
        with pytest.raises(ValueError) as error:
            method(wrong(x))
        assert said in str(error.value) and "\n" not in str(error.value)


def test_a_walk_that_goes_nowhere(bundle):
    for keys, steps in (([1], 8), ([1, 2], 0)):
        with pytest.raises(ValueError, match="wanted 2 keys and 1 step at least"):
            bundle.walk(keys, steps)
    with pytest.raises(ValueError, match=r"latents of shape \(2, 3\): wanted \(B, 8\)"):
        bundle.walk(torch.zeros(2, 3))
