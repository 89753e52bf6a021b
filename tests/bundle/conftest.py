"""The small bundle and the pictures of tests/sampling, and bundles that are checked without importing torch anew each time."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from hires.bundle import writing
from tests.sampling.conftest import sampler, save_pictures  # noqa: F401 - fixtures


@pytest.fixture(scope="session", autouse=True)
def checks_are_forked(forks, clean_env) -> Iterator[None]:
    """The process that checks a bundle is one of `forks`; tests/bundle/test_writing.py has a real one too."""
    with pytest.MonkeyPatch.context() as patched:

        def run(command: list[str], cwd: str, **_):
            return forks.run(command, env=clean_env, cwd=cwd, timeout=200)

        patched.setattr(writing, "subprocess", SimpleNamespace(run=run))
        yield


@pytest.fixture(scope="session")
def agree() -> Callable[..., None]:
    """agree(found, wanted, again): `found` is `wanted` up to what single precision does to it on this machine.

    That is measured: `again(double)` is what `wanted` was computed by, once more, on networks and tensors of which `double` makes such of
    double precision.
    """

    def double(one):
        return deepcopy(one).double()

    @torch.no_grad()
    def compare(found: torch.Tensor, wanted: torch.Tensor, again: Callable) -> None:
        with pytest.MonkeyPatch.context() as patched:  # the networks' outputs are made single
            single = torch.Tensor.float
            patched.setattr(torch.Tensor, "float", lambda tensor: tensor if tensor.dtype == torch.float64 else single(tensor))
            exact = again(double)
        assert exact.dtype == torch.float64 and found.dtype == wanted.dtype == torch.float32 and found.shape == wanted.shape
        rounding = (wanted - exact).abs().max() + torch.finfo(torch.float32).eps * wanted.abs().max()
        assert (found - wanted).abs().max() <= 8 * rounding < 1e-3

    return compare


@pytest.fixture(scope="session")
def same_network(agree) -> Callable[..., list[torch.Tensor]]:
    """same_network(ours, network, *given): both are the same function of these tensors; returns the network's outputs."""

    def compare(ours: Callable, network: torch.nn.Module, *given: torch.Tensor) -> list[torch.Tensor]:
        def of(outputs) -> list[torch.Tensor]:
            return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]

        with torch.no_grad():
            found, wanted = of(ours(*given)), of(network(*given))
        assert len(found) == len(wanted)
        for i in range(len(wanted)):
            agree(found[i], wanted[i], lambda double, i=i: of(double(network)(*map(double, given)))[i])
        if wanted[0].numel() > 1:
            assert wanted[0].std() > 1e-4  # outputs that do vary: constants would be equal whatever the weights
        return wanted

    return compare
