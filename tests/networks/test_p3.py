"""P3's networks: the published layers, Glorot's start, pictures in the range, batch norm that sees its batch or does not."""

import math

import pytest
import torch

from hires import networks
from hires.config import load
from hires.networks import NetworkConfig, batch_norm, p3

PLAIN = NetworkConfig(kind="p3", latent=5, width=0.125, image_channels=1)
# the published layers at full width: convolutions (kernel, in, out), dense layers (in, out), features with batch norm
LAYERS = {
    ("p3_mnist", "ExpertEnergy", 28): ([(5, 1, 64), (5, 64, 64)], [(3136, 1024), (1024, 128)], []),
    ("p3_mnist", "Encoder", 28): ([(5, 1, 64), (5, 64, 64)], [(3136, 256)], [64, 64, 256]),
    ("p3_mnist", "Decoder", 28): ([(5, 64, 64), (5, 64, 1)], [(256, 3136)], [3136, 64]),
    ("p3", "ExpertEnergy", 32): ([(5, 3, 128), (5, 128, 128)], [(8192, 1024), (1024, 128)], []),
    ("p3", "GanEnergy", 32): ([(5, 3, 128), (5, 128, 128)], [(8192, 1024), (1024, 1)], []),
    ("p3", "Encoder", 32): ([(5, 3, 256), (5, 256, 256)], [(16384, 2048)], [256, 256, 2048]),
    ("p3", "Decoder", 32): ([(5, 256, 256), (5, 256, 3)], [(2048, 16384)], [16384, 256]),
    ("p3", "Generator", 32): ([(5, 256, 256), (5, 256, 3)], [(1024, 16384), (2048, 1024)], [16384, 256, 1024]),
}


def started(kind: type, config: NetworkConfig = PLAIN, resolution: int = 28) -> torch.nn.Module:
    network = kind(config, resolution)
    networks.initialise(network, lambda name: torch.Generator().manual_seed(sum(map(ord, name))))
    return network


@pytest.mark.parametrize("preset,kind,resolution", LAYERS)
def test_the_layers_are_the_published_ones(preset, kind, resolution):
    config = load("train", [f"network={preset}", "run=none", "data.root=none"]).network
    with torch.device("meta"):
        network = getattr(p3, kind)(config, resolution)
    modules = list(network.modules())
    convolutions = [m for m in modules if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)]
    convs = [(m.kernel_size[0], m.in_channels, m.out_channels) for m in convolutions]
    dense = [(m.in_features, m.out_features) for m in modules if isinstance(m, torch.nn.Linear)]
    assert (convs, dense, [m.num_features for m in batch_norm.layers(network)]) == LAYERS[preset, kind, resolution]


def test_the_start_is_glorots():
    network = started(p3.Decoder, NetworkConfig(kind="p3", latent=40))
    for layer in (network.deconv0, network.dense):
        weight = layer.weight
        bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * weight[0][0].numel()))
        assert bound * 0.999 < weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert (network.norm1.weight == 1).all() and (network.norm1.bias == 0).all() and (network.deconv1.bias == 0).all()


@pytest.mark.parametrize("resolution", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_and_codes_have_their_shapes_and_ranges(resolution, channels):
    config = NetworkConfig(kind="p3", latent=5, width=0.1, image_channels=channels)
    x = started(p3.Generator, config, resolution)(torch.randn(4, 5))
    assert x.shape == (4, channels, resolution, resolution) and x.min() > -1 and x.max() < 1
    a, logvar = started(p3.Encoder, config, resolution)(x)
    assert a.shape == logvar.shape == (4, 5) and (logvar == -20).all()
    assert started(p3.Decoder, config, resolution)(a).shape == x.shape
    U = started(p3.ExpertEnergy, config, resolution)
    assert U(x).shape == (4,) and U.features(x).shape == (4, 102) and U(x, 1.0, True).shape == (4, 128)
    assert (U(x) > 0).all() and (U(x) <= math.log(2) + 1e-6).all()


def test_a_code_far_out_is_finite():
    encoder = started(p3.Encoder).eval()
    encoder.norm2.running_var.fill_(1e-12)
    x = torch.rand(3, 1, 28, 28) * 2 - 1
    encoder.norm2.weight.data.fill_(1e9)
    assert encoder(x)[0].isfinite().all()


def test_of_the_batch_is_training_mode_without_a_trace():
    decoder, codes = started(p3.Decoder), torch.randn(6, 5)
    with torch.no_grad():
        expected = decoder.train()(codes)
        decoder.eval()
        before = {name: buffer.clone() for name, buffer in decoder.named_buffers() if "tracked" not in name}
        alone = decoder(codes)
        with batch_norm.of_the_batch(decoder):
            assert torch.equal(decoder(codes), expected)
        assert torch.equal(decoder(codes), alone) and not torch.allclose(alone, expected)
    assert all(torch.equal(buffer, before[name]) for name, buffer in decoder.named_buffers() if name in before)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="28 or 32"):
        p3.Decoder(PLAIN, 64)
