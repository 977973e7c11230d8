"""Bounds on the largest singular value of weights.

Source:
    Miyato et al. 2018, arXiv:1802.05957.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

SpectralNorm = Literal["none", "heads", "cap"]


class SpectralCap(nn.Module):
    """A bound `W / max(1, sigma(W) / sigma_0)`: the largest singular value stays at most that of the start.

    It is the identity at first, unlike spectral normalization, which would change a pretrained function. One
    power iteration in each call in training mode follows the weight.
    """

    left: Tensor
    right: Tensor
    ceiling: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        self.register_buffer("left", u[:, 0].clone())
        self.register_buffer("right", v[0].clone())
        self.register_buffer("ceiling", self.left @ matrix @ self.right)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the bounded weight."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                with torch.no_grad():
                    self.right.copy_(F.normalize(self.left @ matrix, dim=0))
                    self.left.copy_(F.normalize(matrix @ self.right, dim=0))
            # clones, for the buffers may change before the backward pass
            sigma = self.left.clone() @ matrix @ self.right.clone()
            return weight / (sigma / self.ceiling).clamp_min(1)


def cap_convolutions(module: nn.Module) -> None:
    """Put a `SpectralCap` on every trainable convolution but those that are zero and would stay so under it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad and layer.weight.any():
            parametrize.register_parametrization(layer, "weight", SpectralCap(layer.weight))


def normalize_layers(module: nn.Module) -> None:
    """Apply spectral normalization to every trainable layer of a module, in place."""
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding) and layer.weight.requires_grad:
            spectral_norm(layer)
