"""ONNX and torch.export: the same numbers at any batch size, nothing of this machine in them, and a check that can fail."""

from collections.abc import Iterator
from functools import cache, partial
import json
from pathlib import Path
import shutil
import subprocess
import sys

import pytest
import torch

from hires import networks as nets
from hires.bundle import formats, hires_bundle
from hires.bundle import writing as writer
from hires.bundle.writing import write_bundle
from hires.cli import main
from hires.errors import HiresError
from hires.networks import NetworkConfig

ONNX = pytest.mark.skipif(
    any(formats.find_spec(package) is None for package in formats.FORMATS["onnx"]), reason="ONNX's packages are not here: hires[onnx]"
)
FORMS = [pytest.param("onnx", marks=ONNX), "pt2"]
ONE = {"generator": formats.NAMES["generator"]}  # the first network that is checked: each takes seconds to write
SMALL = NetworkConfig(latent=8, channels_base=256, channels_max=12, image_channels=1)


def make(config, resolution, form="identity"):
    """The three networks with random weights and biases."""
    made = {}
    for player in writer.PLAYERS:
        network = nets.build(config, player, resolution, energy_form=form if player == "energy" else "identity")
        streams = iter(range(10_000))
        nets.initialise(network, lambda name, streams=streams: torch.Generator().manual_seed(next(streams)))
        for name, tensor in network.named_parameters():
            if name.endswith("bias"):
                tensor.data.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(next(streams))) * 0.1)
        made[player] = network.eval()
    return made


@pytest.fixture(scope="module", autouse=True)
def onnx_library_is_read_once() -> Iterator[None]:
    """torch's exporter reads all translations to ONNX anew for each network: a third of its time, and always the same."""
    from torch.onnx._internal.exporter import _registration as registration

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registration.ONNXRegistry, "from_torchlib", staticmethod(cache(registration.ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module", params=["growing", pytest.param("dcgan32", marks=pytest.mark.slow)])
def both(request, tmp_path_factory):
    """A bundle in every format that can be written here."""
    config, resolution = (SMALL, 8) if request.param == "growing" else (NetworkConfig(kind="dcgan32", latent=8), 32)
    forms = [form for form in formats.FORMATS if all(formats.find_spec(package) for package in formats.FORMATS[form])]
    networks = make(config, resolution, "softplus" if request.param == "growing" else "identity")
    return write_bundle(tmp_path_factory.mktemp("bundles") / request.param, config, resolution, networks, {}, forms)


def call(path, batch):
    """A network in another format, as its users would call it: outputs by name where the format has names."""
    if path.suffix == ".pt2":
        out = torch.export.load(path).module()(batch)
        return list(out) if isinstance(out, (list, tuple)) else [out]
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    takes, gives = formats.NAMES[path.stem]
    assert [one.name for one in session.get_inputs()] == [takes] and [one.name for one in session.get_outputs()] == gives
    assert all(one.shape[0] == "batch" for one in (*session.get_inputs(), *session.get_outputs()))
    return [torch.from_numpy(one) for one in session.run(gives, {takes: batch.numpy()})]


@pytest.mark.parametrize("form", FORMS)
def test_every_network_gives_the_same_at_any_batch_size(both, form, same_network):
    bundle = hires_bundle.load(both)
    z = bundle.latents(list(range(7)))
    size = 7, bundle.config["image_channels"], bundle.resolution, bundle.resolution
    x = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = x * torch.linspace(0.1, 1, 7)[:, None, None, None]  # of different contrast: energies of noise alone lie close together
    for name, batch in {"generator": z, "inference": x, "energy": x}.items():
        for count in (1, 7):  # it was written with two
            same_network(partial(call, both / f"{name}.{form}"), getattr(bundle, name), batch[:count])


@pytest.mark.parametrize("form", FORMS)
def test_one_file_a_network_with_its_hash_and_a_word_on_the_card(both, form):
    names = {f"{player}.{form}" for player in writer.PLAYERS}
    assert {path.name for path in both.iterdir() if path.suffix == f".{form}"} == names
    assert names <= json.loads((both / "config.json").read_text())["sha256"].keys()
    assert f"generator.{form}" in (both / "README.md").read_text()
    allowed = {".safetensors", ".json", ".py", ".png", ".md", ".onnx", ".pt2"}
    assert {path.suffix for path in both.iterdir()} <= allowed  # no weights beside the ONNX files


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_this_machine_is_in_them(both, form, tmp_path):
    places = [str(Path(hires_bundle.__file__).parents[2]), str(Path(torch.__file__).parents[1]), str(both.parent), "site-packages"]
    for player in writer.PLAYERS:
        file = both / f"{player}.{form}"
        if form == "pt2":  # a zip archive, whose text may be packed
            shutil.unpack_archive(file, tmp_path / player, "zip")
        contents = [p.read_bytes() for p in (tmp_path / player).rglob("*") if p.is_file()] if form == "pt2" else [file.read_bytes()]
        assert contents
        for place in places:
            assert not any(place.encode() in content for content in contents), place


@pytest.mark.parametrize("form", FORMS)
def test_a_format_that_gives_other_numbers_is_not_handed_over(form, tmp_path, monkeypatch):
    write = getattr(formats, f"_{form}")

    def bent(program, *names):
        next(iter(program.state_dict.values())).mul_(1.01)
        return write(program, *names)

    monkeypatch.setattr(formats, f"_{form}", bent)
    monkeypatch.setattr(formats, "NAMES", ONE)
    # the program may share its weights with the bundle's networks: those were written before
    with pytest.raises(HiresError, match=rf"\({form}, 1 at once\) of seeds .* differ by") as caught:
        write_bundle(tmp_path / "b", SMALL, 4, make(SMALL, 4), {}, [form])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_was_taken_for_a_constant_is_not_handed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_export", lambda network, example: torch.export.export(network, (example,)))
    monkeypatch.setattr(formats, "NAMES", ONE)
    with pytest.raises(HiresError, match="does not load on its own"):
        write_bundle(tmp_path / "b", SMALL, 4, make(SMALL, 4), {}, ["pt2"])
    assert list(tmp_path.iterdir()) == []


def test_formats_are_read_as_a_person_writes_them(monkeypatch, capsys):
    monkeypatch.setattr(formats, "find_spec", lambda package: package)
    assert formats.parse_formats("") == []
    assert formats.parse_formats("pt2, onnx,pt2") == ["pt2", "onnx"]
    monkeypatch.setattr(formats, "find_spec", lambda package: None if package.startswith("onnxr") else package)
    assert formats.parse_formats("pt2") == ["pt2"]
    assert main(["export", "run=nowhere", "formats=pt2,onnx"]) == 1  # told before the run is looked for
    error = capsys.readouterr().err
    assert "onnx needs onnxruntime, not installed: pip install 'hires[onnx]'" in error and error.count("\n") == 1


@ONNX
def test_onnx_runs_in_a_process_without_torch(both, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['hires'] = None; import numpy, onnxruntime; "
        "session = onnxruntime.InferenceSession(sys.argv[1]); (images,) = session.run(None, {'z': numpy.ones((5, 8), 'float32')}); "
        "print(images.shape[0], images.std() > 0)"
    )
    command = [sys.executable, "-I", "-c", code, str(both / "generator.onnx")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split() == ["5", "True"], done.stderr
