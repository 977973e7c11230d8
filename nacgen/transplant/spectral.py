"""Bounds on the largest singular value of weights.

Source:
    Miyato et al. 2018, arXiv:1802.05957.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from nacgen.transplant.trunk import Trunk


class SpectralCap(nn.Module):
    """`W / max(1, sigma(W) / sigma_0)`: the largest singular value may not exceed that of the start.

    The identity at first, unlike spectral normalisation, which would change a pretrained function. One power
    iteration in each call in training mode follows the weight.

    Args:
        weight: The start, its first axis the outputs.
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
        """The capped weight."""
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                with torch.no_grad():
                    self.right.copy_(F.normalize(self.left @ matrix, dim=0))
                    self.left.copy_(F.normalize(matrix @ self.right, dim=0))
            # clones, for the buffers may move on before the backward pass
            sigma = self.left.clone() @ matrix @ self.right.clone()
            return weight / (sigma / self.ceiling).clamp_min(1)


def cap_trunk(trunk: Trunk) -> None:
    """Cap every convolution that trains but for those that are zero, which would stay so for ever.

    Args:
        trunk: Changed in place; its function stays what it is.
    """
    for module in trunk.backbone.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad and module.weight.any():
            parametrize.register_parametrization(module, "weight", SpectralCap(module.weight))


def normalize_heads(module: nn.Module) -> None:
    """Spectral normalisation of every trainable linear map, convolution and embedding in a module.

    Args:
        module: Changed in place.
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding) and layer.weight.requires_grad:
            spectral_norm(layer)
