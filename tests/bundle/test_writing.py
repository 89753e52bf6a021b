"""Bundles: folding, seeds, the check before the name, and error lines."""

import ast
from copy import deepcopy
import json
from pathlib import Path
import subprocess
import sys

import pytest
from safetensors.torch import save
import torch

from hires import networks as nets
from hires.bundle import hires_bundle
from hires.bundle import writing as writer
from hires.bundle.writing import write_bundle, write_files
from hires.errors import HiresError
from hires.networks import NetworkConfig

INFO = {"data": "none", "images_seen": 12_000_000, "commit": "0123abc"}


def small(channels=3, convs=2, kind="growing"):
    return NetworkConfig(kind=kind, latent=8, channels_base=256, channels_max=12, convs=convs, image_channels=channels)


def make(config, resolution, form="identity"):
    """The three networks with random weights, in eval mode, with statistics as training leaves them."""
    made = {}
    for player in writer.PLAYERS:
        network = nets.build(config, player, resolution, energy_form=form if player == "energy" else "identity")
        streams = iter(range(10_000))
        nets.initialise(network, lambda name, streams=streams: torch.Generator().manual_seed(next(streams)))
        with torch.no_grad():
            noise = torch.Generator().manual_seed(3)
            for name, tensor in network.named_parameters():  # biases of 0 would hide a bias left behind
                if name.endswith("bias"):
                    tensor.copy_(torch.randn(tensor.shape, generator=noise) * 0.1)
            for _ in range(5):  # power iterations and batch statistics
                size = (16, config.latent) if player == "generator" else (16, config.image_channels, resolution, resolution)
                network(torch.randn(size, generator=noise))
        made[player] = network.eval()
    return made


def pictures(config, resolution, count=3):
    noise = torch.rand(count, config.image_channels, resolution, resolution, generator=torch.Generator().manual_seed(5)) - 0.5
    return noise * 0.5 + torch.linspace(-0.7, 0.7, count)[:, None, None, None]  # of different brightness: noise alone averages out


CASES = [
    (small(), 4, "identity"),
    (small(channels=1, convs=1), 4, "softplus"),
    (small(convs=1), 32, "softplus"),
    (small(channels=1), 32, "identity"),
    (small(channels=1, convs=1), 32, "identity"),
    (small(), 32, "softplus"),
    (small(kind="dcgan32"), 32, "identity"),
    (small(channels=1, kind="dcgan32"), 32, "identity"),
]


@pytest.mark.parametrize(("config", "resolution", "form"), CASES)
@torch.no_grad()
def test_folded_networks_equal_the_training_networks(tmp_path, same_network, config, resolution, form):
    networks = make(config, resolution, form)
    write_files(tmp_path / "b", config, resolution, networks, INFO, "b")
    bundle = hires_bundle.load(tmp_path / "b")
    z, x = bundle.latents([1, 2, 3]), pictures(config, resolution)
    for name, given in (("generator", z), ("inference", x), ("energy", x)):
        assert all(wanted.std() > 1e-4 for wanted in same_network(getattr(bundle, name), networks[name], given))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A bundle written for real, check and all, and the networks it was made of, left in training mode."""
    config = small()
    networks = make(config, 8, "softplus")
    for network in networks.values():
        network.train()
    before = {name: deepcopy(network.state_dict()) for name, network in networks.items()}
    with pytest.MonkeyPatch.context() as real:
        real.setattr(writer, "subprocess", subprocess)  # in an interpreter of its own
        out = write_bundle(tmp_path_factory.mktemp("bundles") / "deep" / "b", config, 8, networks, INFO)
    for name, network in networks.items():
        assert network.training
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, before[name][key]), f"export changed {name} {key}"
    return out


def test_the_folder_holds_what_is_promised(whole):
    names = {f"{player}.safetensors" for player in writer.PLAYERS} | {"config.json", "hires_bundle.py", "preview.png", "README.md"}
    assert {path.name for path in whole.iterdir()} == names
    assert list(whole.parent.iterdir()) == [whole]  # nothing temporary is left
    assert len({path.stat().st_mode for path in whole.iterdir()}) == 1  # weights as readable to others as the text
    config = json.loads((whole / "config.json").read_text())
    assert config["resolution"] == 8
    assert config["info"] == INFO
    card = (whole / "README.md").read_text()
    assert "- images seen: 12,000,000" in card
    assert "licence of the training data is not recorded" in card
    assert "{" not in card


def test_loads_in_a_process_without_the_project(whole, tmp_path):
    # isolated, elsewhere, and with every module of the project out of reach: as a stranger would load it
    code = (
        "import sys; sys.modules['hires'] = None; sys.path.insert(0, sys.argv[1]); import hires_bundle, torch; "
        "torch.save(hires_bundle.load(sys.argv[1]).sample([4, 2]), 'out.pt'); "
        "print(hires_bundle.__file__)"
    )
    result = subprocess.run([sys.executable, "-I", "-B", "-c", code, str(whole)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(whole / "hires_bundle.py")
    images = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(images, hires_bundle.load(whole).sample([4, 2]), atol=1e-5, rtol=0)


def test_loader_imports_torch_and_safetensors_alone():
    tree = ast.parse(Path(hires_bundle.__file__).read_text())
    roots = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert roots <= {"collections", "dataclasses", "hashlib", "itertools", "json", "pathlib", "re", "safetensors", "torch"}


def test_a_seed_is_the_same_picture_in_any_batch(whole):
    bundle = hires_bundle.load(whole)
    alone = bundle.sample([7])[0]
    many = bundle.sample([*range(100, 166), 7, 3])  # more than one forward pass
    assert many.shape == (68, 3, 8, 8)
    torch.testing.assert_close(many[66], alone, atol=1e-5, rtol=0)
    assert (many[67] - alone).abs().max() > 1e-2
    assert torch.equal(bundle.latents([7, 3])[0], bundle.latents([0, 1, 7])[2])
    assert not torch.equal(bundle.latents([2**32 - 1]), bundle.latents([0]))
    for other in (2**32, -1):  # which torch would take for 0 and 2^32 - 1
        with pytest.raises(ValueError, match=f"seed {other}: wanted 0 to 4294967295"):
            bundle.sample([0, other])


def test_gradients_reach_inputs_and_no_parameter(whole):
    bundle = hires_bundle.load(whole)
    x = pictures(small(), 8).requires_grad_()
    bundle.energy(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for net in (bundle.generator, bundle.inference, bundle.energy) for p in net.parameters())


def test_a_failed_check_leaves_nothing(tmp_path, monkeypatch):
    def bent(network, fold=writer.fold):
        tensors = fold(network)
        if "levels.4x4.dense.weight" in tensors:
            tensors["levels.4x4.dense.weight"] = tensors["levels.4x4.dense.weight"] * 1.01
        return tensors

    monkeypatch.setattr(writer, "fold", bent)
    with pytest.raises(HiresError, match="differ by") as caught:
        write_bundle(tmp_path / "b", small(), 4, make(small(), 4), INFO)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_loader_that_needs_the_project_is_not_handed_over(tmp_path, monkeypatch):
    leaning = tmp_path / "hires_bundle.py"
    leaning.write_text(Path(hires_bundle.__file__).read_text() + "\nimport hires.networks\n")
    monkeypatch.setattr(hires_bundle, "__file__", str(leaning))
    with pytest.raises(HiresError, match=r"does not load on its own: ModuleNotFoundError.*hires"):
        write_bundle(tmp_path / "new" / "b", small(), 4, make(small(), 4), INFO)
    assert list((tmp_path / "new").iterdir()) == []


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, monkeypatch):
    config, networks = small(), make(small(), 4)
    (tmp_path / "there").mkdir()
    with pytest.raises(HiresError, match="there: exists already"):
        write_bundle(tmp_path / "there", config, 4, networks, INFO)
    with pytest.raises(HiresError, match="stable at 4 pixels, a bundle wants it stable at 8"):
        write_bundle(tmp_path / "b", config, 8, networks, INFO)
    with pytest.raises(HiresError, match="networks energy; a bundle wants a generator, or an energy and Langevin chains"):
        write_bundle(tmp_path / "b", config, 4, {"energy": networks["energy"]}, INFO)
    with pytest.raises(HiresError, match="in a fade"):
        write_bundle(tmp_path / "b", config, 8, {name: nets.build(config, name, 8, fading=True) for name in networks}, INFO)
    with pytest.raises(HiresError, match="the energy is of class Inference; a bundle holds"):
        write_bundle(tmp_path / "b", config, 4, networks | {"energy": networks["inference"]}, INFO)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "save", full)
    with pytest.raises(HiresError, match="b: not written: No space left on device"):
        write_bundle(tmp_path / "b", config, 4, networks, INFO)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.fixture
def own(tmp_path):
    """An unchecked bundle of one's own to break."""
    write_files(tmp_path / "b", small(), 4, make(small(), 4), INFO, "b")
    return tmp_path / "b"


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "README.md").unlink(missing_ok=True)  # which has its hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "bundle format 99, this loader reads 1"),
        ({"kind": "diffusion"}, "kind='diffusion', wanted one of growing, dcgan32"),
        ({"latent": "8"}, "latent='8', wanted int"),
        ({"resolution": 12}, "resolution=12, wanted a power of two"),
        ({"widths": {}}, "widths has no number for 4x4"),
        ({"energy_form": "tanh"}, "wanted identity, softplus or experts"),
        ({"latent": 9}, r"generator.safetensors: levels.4x4.dense.weight is \(192, 8\), config.json says \(192, 9\)"),
    ],
)
def test_a_wrong_configuration_is_one_line(own, changes, message):
    edit(own, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        hires_bundle.load(own)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "energy.safetensors"])
def test_a_missing_or_cut_file_is_named(own, name):
    whole = (own / name).read_bytes()
    (own / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=name):
        hires_bundle.load(own)
    (own / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: missing"):
        hires_bundle.load(own)


@pytest.mark.parametrize("name", ["config.json", "generator.safetensors", "inference.safetensors", "energy.safetensors"])
def test_a_flipped_bit_is_noticed(own, name):
    """In what a network computes with, where nothing else would: the last byte of a file is a weight's; of the configuration a space."""
    content = bytearray((own / name).read_bytes())
    content[-1] ^= 1
    if name == "config.json":
        content[-1] = ord(" ")  # JSON still
    (own / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: not the file that was exported") as caught:
        hires_bundle.load(own)
    assert "\n" not in str(caught.value)


def test_another_runs_generator_is_noticed_and_bundles_without_hashes_open(own, tmp_path):
    other = make(small(), 4)["generator"]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    (own / "generator.safetensors").write_bytes(save(writer.fold(other)))
    with pytest.raises(ValueError, match=r"generator\.safetensors: not the file that was exported"):
        hires_bundle.load(own)
    edit(own, sha256={})
    assert hires_bundle.load(own).generator


def test_a_wrong_shape_is_one_line(own):
    bundle = hires_bundle.load(own)
    with pytest.raises(ValueError, match=r"latents of shape \(2, 7\): wanted \(B, 8\)"):
        bundle.generator(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=r"images of shape \(2, 3, 8, 8\): wanted \(B, 3, 4, 4\)"):
        bundle.energy(torch.zeros(2, 3, 8, 8))
