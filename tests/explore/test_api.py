"""The questions of the page over real HTTP, and what the bundle itself answers."""

from base64 import b64decode
from dataclasses import replace
import io
import json

import numpy as np
from PIL import Image
import pytest
import torch

from hires.explore.model import Explorer, png
from hires.sampling.paths import slerp
from tests.explore.looking import picture_file


def pixels(address: str) -> np.ndarray:
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(b64decode(data)))).astype(int)


def same(address: str, image: torch.Tensor) -> bool:
    """Whether a PNG is a float picture (C, H, W), to one level of 255."""
    wanted = ((image.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    return np.abs(pixels(address) - wanted).max() <= 1


def test_info_says_what_the_bundle_is(server):
    status, info, _ = server.ask("GET", "/api/info")
    assert status == 200
    assert (info["resolution"], info["channels"], info["latent"], info["device"]) == (32, 3, 16, "cpu")
    assert info["info"] == {"data": "none", "images_seen": 123_000}


def test_samples_are_the_bundles_pictures_and_energies(server, bundle):
    drawn = server.post("/api/sample", seeds=[5, 0, 2**32 - 1], truncation=0.5)["pictures"]
    images = bundle.generator(bundle.latents([5, 0, 2**32 - 1]) * 0.5)
    energies = bundle.energy(images.clamp(-1, 1))
    assert [one["seed"] for one in drawn] == [5, 0, 2**32 - 1]
    assert energies.std() > 1e-4
    for one, image, energy in zip(drawn, images, energies, strict=True):
        assert same(one["picture"], image)
        assert one["energy"] == pytest.approx(energy.item(), abs=1e-4)
    assert np.abs(pixels(drawn[0]["picture"]) - pixels(drawn[1]["picture"])).max() > 20


def test_between_points_is_the_clips_path(server, bundle):
    z = bundle.latents([3, 4])
    points = [{"seed": 3}, {"code": z[1].tolist()}]
    found = server.post("/api/decode", points=points, weights=[3, 1])
    wanted = slerp(z[:1], z[1:], 0.25)
    image = bundle.generator(wanted)
    assert same(found["picture"], image[0])
    assert found["energy"] == pytest.approx(bundle.energy(image.clamp(-1, 1)).item(), abs=1e-4)
    assert found["norm"] == pytest.approx(wanted.norm().item(), abs=1e-3)
    straight = server.post("/api/decode", points=points, weights=[3, 1], path="line")
    assert same(straight["picture"], bundle.generator(0.75 * z[:1] + 0.25 * z[1:])[0])
    shorter = server.post("/api/decode", points=points, weights=[3, 1], truncation=0.5)  # of seeds alone
    assert same(shorter["picture"], bundle.generator(slerp(0.5 * z[:1], z[1:], 0.25))[0])
    assert not same(shorter["picture"], image[0])


def test_a_picture_is_reconstructed(server, bundle):
    data = picture_file()
    status, found, _ = server.ask("POST", "/api/reconstruct", data)
    assert status == 200, found
    x = torch.from_numpy(np.asarray(Image.open(io.BytesIO(data))).copy()).permute(2, 0, 1).float()[None] / 127.5 - 1
    mu, logvar = bundle.inference(x)
    x_hat = bundle.generator(mu)
    assert same(found["original"], x[0]) and same(found["picture"], x_hat[0])
    torch.testing.assert_close(torch.tensor(found["code"]), mu[0], atol=1e-4, rtol=1e-4)
    assert found["mse"] == pytest.approx((x_hat.clamp(-1, 1) - x).square().mean().item(), rel=1e-3)
    assert found["sigma"] == pytest.approx((logvar / 2).exp().mean().item(), rel=1e-3)
    for key, picture in (("energy_original", x), ("energy", x_hat.clamp(-1, 1))):
        assert found[key] == pytest.approx(bundle.energy(picture).item(), abs=1e-4)
    again = server.post("/api/decode", points=[{"code": found["code"]}])
    assert np.abs(pixels(again["picture"]) - pixels(found["picture"])).max() <= 1


@pytest.mark.parametrize(
    "data",
    [picture_file("L", (50, 40)), picture_file("RGBA", (90, 64)), picture_file(form="JPEG", size=(200, 300)), picture_file(form="WEBP")],
    ids=["grey", "transparent", "jpeg", "webp"],
)
def test_other_pictures_are_taken_too(server, data):
    status, found, _ = server.ask("POST", "/api/reconstruct", data)
    assert status == 200, found
    assert pixels(found["original"]).shape == (32, 32, 3)


def test_grey_bundles_give_grey_pictures():
    ramp = torch.linspace(-1.2, 1.2, 16).view(1, 4, 4)
    assert Image.open(io.BytesIO(b64decode(png(ramp).partition(",")[2]))).mode == "L"
    assert np.abs(pixels(png(ramp)) - ((ramp[0].clamp(-1, 1) + 1) * 127.5).round().numpy()).max() <= 1


def test_an_energy_that_is_no_number_is_null(bundle):
    broken = replace(bundle, energy=lambda x: torch.full((len(x),), torch.nan))
    explorer = Explorer(broken, "broken")
    answers = [explorer.sample([1]), explorer.decode([{"seed": 1}]), explorer.reconstruct(picture_file())]
    assert [answers[0][0]["energy"], answers[1]["energy"], answers[2]["energy_original"]] == [None] * 3
    json.dumps(answers, allow_nan=False)  # which a browser can read
