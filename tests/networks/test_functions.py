"""What the networks promise as functions: one image at a time, no normalisation in E and I, bounded spectral norms, starting weights."""

import zlib

import pytest
from scipy.stats import kstest
import torch

from hires import networks
from hires.networks import NetworkConfig

FORMS = [("generator", "identity"), ("energy", "identity"), ("energy", "softplus"), ("inference", "identity")]
GROWING = NetworkConfig(latent=8, channels_base=256, channels_max=32)
DCGAN = NetworkConfig(kind="dcgan32", latent=8)


def stream(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def make(config: NetworkConfig, player: str, resolution: int = 32, fading: bool = False, form: str = "identity") -> torch.nn.Module:
    network = networks.build(config, player, resolution, fading, form)
    networks.initialise(network, stream)
    return network


@pytest.mark.parametrize("config,form", [(GROWING, "identity"), (GROWING, "softplus"), (DCGAN, "identity")])
@pytest.mark.parametrize("player", ["energy", "inference"])
@torch.no_grad()
def test_energy_and_inference_are_functions_of_one_image(config, form, player):
    network = make(config, player, form=form if player == "energy" else "identity").train()
    norms = (torch.nn.modules.batchnorm._NormBase, torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.LocalResponseNorm)
    assert not [m for m in network.modules() if isinstance(m, norms)]
    x = torch.randn(6, 3, 32, 32, generator=stream("images"))
    others = torch.cat([x[:1], 50 * torch.randn(5, 3, 32, 32, generator=stream("other images")) + 10])

    def first(images: torch.Tensor) -> torch.Tensor:
        if form == "softplus":  # training turns the singular vectors a little further with each call: compare from one state
            network.eval()
        out = network(images)
        return torch.cat(out, 1)[0] if isinstance(out, tuple) else out[0]

    alone = first(x[:1])  # the rest of the batch moves sums around inside a convolution, no more
    assert (first(x) - alone).abs().max() < 1e-5
    assert (first(others) - alone).abs().max() < 1e-5


@torch.no_grad()
def test_growing_generator_makes_each_image_from_its_latent_alone_and_published_one_does_not():
    z = torch.randn(4, 8, generator=stream("z"))
    G = make(GROWING, "generator").train()
    assert (G(z)[0] - G(z[:1])[0]).abs().max() < 1e-4
    G = make(DCGAN, "generator").train()  # batch norm
    assert (G(z)[0] - G(z[:2])[0]).abs().max() > 1e-2


@torch.no_grad()
def test_energies_keep_the_scale_of_images_in_identity_form():
    """No hidden normalisation of the input or of a layer: a leaky network without biases is homogeneous of degree one."""
    U, x = make(GROWING, "energy"), torch.randn(4, 3, 32, 32, generator=stream("x"))
    assert torch.allclose(U(7 * x), 7 * U(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_generator_is_pixel_normalised_and_linear_at_its_end():
    G, z = make(GROWING, "generator"), torch.randn(4, 8, generator=stream("z"))
    seen = {}
    G.levels["32x32"].register_forward_hook(lambda module, args, out: seen.update(h=out))
    x = G(z)
    assert (seen["h"].square().mean(1) - 1).abs().max() < 1e-3
    G.levels["32x32"].to_rgb.weight.mul_(30)  # linear RGB: no tanh in the way
    assert torch.allclose(G(z), 30 * x, rtol=1e-4, atol=1e-4) and G(z).abs().max() > 5


@torch.no_grad()
def test_softplus_energies_do_not_depend_on_the_global_random_state():
    x = torch.randn(4, 3, 16, 16, generator=stream("x"))
    energies = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        U = make(GROWING, "energy", 16, form="softplus")
        energies.append(torch.stack([U(x), U(x), U.eval()(x)]))
    assert torch.equal(*energies)
    assert (energies[0] > 0).all()


@torch.no_grad()
def test_softplus_bounds_every_layers_spectral_norm_but_the_heads():
    U = make(GROWING, "energy", 32, form="softplus")
    for _ in range(50):  # each training pass turns the singular vectors further
        U(torch.zeros(1, 3, 32, 32))
    checked = 0
    for name, module in U.named_modules():
        if "parametrizations" in name or not hasattr(module, "scale"):
            continue
        largest = torch.linalg.matrix_norm(module.weight.flatten(1), 2).item()
        if name.endswith("head"):
            assert largest > 1.5  # N(0, 1) weights, free
        else:
            assert 0.9 < largest < 1.02, name
            checked += 1
    # from RGB, two convolutions on 32, 16 and 8, and the 4x4 level's convolution and dense layer
    assert checked == 1 + 2 * 3 + 2
    start = make(GROWING, "energy", 32, form="softplus")
    norms = [torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for n, m in start.named_modules() if n.endswith("conv0")]
    assert max(norms) < 1.1  # near one before the first step already


# ---------------------------------------------------------------------------------------------- starting weights


@pytest.mark.parametrize("player", ["generator", "energy", "inference"])
def test_equalised_weights_start_as_standard_normal_and_biases_as_zero(player):
    network = make(GROWING, player)
    weights = torch.cat([p.detach().flatten() for n, p in network.named_parameters() if n.endswith("weight")]).numpy()
    assert len(weights) > 30_000
    assert kstest(weights, "norm").pvalue > 1e-3
    assert all(not p.any() for n, p in network.named_parameters() if n.endswith("bias"))


@pytest.mark.parametrize("player", ["generator", "energy", "inference"])
def test_dcgan32_starts_as_published(player):
    network = make(DCGAN, player)
    for name, p in network.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        else:
            mean = 1.0 if "norm" in name else 0.0
            assert kstest(((p.detach().flatten() - mean) / 0.02).numpy(), "norm").pvalue > 1e-4, name


@pytest.mark.parametrize("player,form", FORMS)
def test_a_level_starts_the_same_whenever_it_is_added(player, form):
    reference = make(GROWING, player, 32, True, form).state_dict()
    torch.manual_seed(99)
    for resolution, fading in [(4, False), (8, True), (16, False), (32, False), (32, True)]:
        state = make(GROWING, player, resolution, fading, form).state_dict()
        for name in state.keys() & reference.keys():
            assert torch.equal(state[name], reference[name]), name
        assert len(state.keys() & reference.keys()) > len(state) / 2


def test_no_two_parameters_share_their_numbers():
    weights = [p for n, p in make(GROWING, "generator").named_parameters() if n.endswith("weight") and p.numel() >= 64]
    assert len({tuple(w.detach().flatten()[:64].tolist()) for w in weights}) == len(weights)
