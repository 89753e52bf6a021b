"""Spectral normalisation (Miyato et al. 2018) that bears bf16 weights: their norms are found in the singular vectors' own dtype, fp32.

DeepSpeed leaves these vectors in fp32 beside bf16 weights, which torch's own parametrisation cannot multiply.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import register_parametrization


class Normalised(_SpectralNorm):
    """A weight divided by its largest singular value, by torch's power iteration: a step whenever it is made in training."""

    def forward(self, weight: Tensor) -> Tensor:
        """A weight of any shape and floating dtype, the outputs first -> one like it."""
        return super().forward(weight.to(self._u.dtype)).to(weight.dtype)


class AtMostOne(_SpectralNorm):
    """A weight divided by its largest singular value where that is above 1."""

    def forward(self, weight: Tensor) -> Tensor:
        """A weight of any shape and floating dtype, the outputs first -> one like it."""
        matrix = self._reshape_weight_to_matrix(weight.to(self._u.dtype))
        if self.training:
            self._power_method(matrix, self.n_power_iterations)
        u, v = self._u.clone(memory_format=torch.contiguous_format), self._v.clone(memory_format=torch.contiguous_format)
        return (weight / torch.vdot(u, torch.mv(matrix, v)).clamp_min(1)).to(weight.dtype)


def normalise(layer: nn.Module, norm: type[_SpectralNorm] = Normalised) -> nn.Module:
    """The layer, its weight normalised whenever it is read."""
    return register_parametrization(layer, "weight", norm(layer.weight))
