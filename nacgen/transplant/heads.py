"""Layers of a discriminator: heads, a branch for colors, fixed random mixing of maps, spectral normalization.

Source:
    `BasisHead`: the depthwise-then-linear output of Huang et al. 2024, arXiv:2501.05441. `RandomMixing` and
    `DownsamplingHead`: Sauer et al. 2021, arXiv:2111.01007, section 3.2. Class conditioning by projection:
    Miyato & Koyama 2018, arXiv:1802.05637. Spectral normalization: Miyato et al. 2018, arXiv:1802.05957.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from nacgen.models.folder import check_memory

HeadName = Literal["linear", "basis", "projected"]
SpectralNorm = Literal["none", "heads", "cap"]
CHANNELS = 64  # between the layers of a head


class Head(nn.Module, ABC):
    """A network from a feature map to one logit, linear in a vector made of the map.

    With vector `f` and label `y` the logit is `w f + b + v_y f`; without classes `v` is absent.
    """

    def add_output(self, vector_dim: int, num_classes: int | None) -> None:
        """Make the last layer, after a subclass has made its own."""
        check_memory((num_classes or 0) * vector_dim, f"{num_classes} classes")
        self.linear = nn.Linear(vector_dim, 1)
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, vector_dim)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=vector_dim**-0.5)

    @abstractmethod
    def _vector(self, feature_map: Tensor) -> Tensor:
        """Reduce each map to one vector, `(b, c, h, w) -> (b, d)`."""

    def forward(
        self, feature_map: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b 1"]:
        """Return one logit for each image."""
        vector = self._vector(feature_map)
        logits: Tensor = self.linear(vector)
        if self.embedding is None or labels is None:
            return logits
        projection: Tensor = einsum(self.embedding(labels), vector, "b d, b d -> b")
        return logits + projection[:, None]


class LinearHead(Head):
    """A linear map of the mean over pixels."""

    def __init__(self, in_channels: int, map_size: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.add_output(in_channels, num_classes)

    def _vector(self, feature_map: Tensor) -> Tensor:
        return reduce(feature_map, "b c h w -> b c", "mean")


class BasisHead(Head):
    """A convolution, learned weights over all pixels of each channel, and a linear map."""

    def __init__(self, in_channels: int, map_size: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, CHANNELS, 3, padding=1)
        self.basis = nn.Conv2d(CHANNELS, CHANNELS, map_size, groups=CHANNELS, bias=False)
        self.add_output(CHANNELS, num_classes)

    def _vector(self, feature_map: Tensor) -> Tensor:
        x: Tensor = self.basis(F.leaky_relu(self.conv(feature_map), 0.2))
        return rearrange(x, "b c 1 1 -> b c")


class DownsamplingHead(Head):
    """A stack of strided convolutions down to 4 px or less, then one convolution over all remaining pixels.

    Differs from the paper: one logit instead of a map of logits, and no BatchNorm, so that a logit depends
    on its own image only. `spectral_norm="heads"` adds the paper's spectral normalization.
    """

    def __init__(self, in_channels: int, map_size: int, num_classes: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while map_size > 4:
            layers += [nn.Conv2d(in_channels, CHANNELS, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            in_channels, map_size = CHANNELS, map_size // 2
        self.layers = nn.Sequential(*layers)
        self.conv = nn.Conv2d(in_channels, CHANNELS, map_size)
        self.add_output(CHANNELS, num_classes)

    def _vector(self, feature_map: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(self.layers(feature_map)), 0.2)
        return rearrange(x, "b c 1 1 -> b c")


HEADS: dict[HeadName, type[LinearHead] | type[BasisHead] | type[DownsamplingHead]] = {
    "linear": LinearHead,
    "basis": BasisHead,
    "projected": DownsamplingHead,
}


class RGBBranch(nn.Module):
    """A trainable feature map of the pixels at half their size, for colors that a frozen trunk ignores."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, self.out_channels, 4, stride=2, padding=1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c i j"]:
        """Return the feature map."""
        x = F.leaky_relu(self.conv1(images), 0.2)
        return F.leaky_relu(self.conv2(x), 0.2)


class RandomMixing(nn.Module):
    """A random pyramid that mixes maps across channels and scales; its weights never train.

    From the smallest map to the largest: a random 1x1 convolution brings each map to the same channels, the mixed
    smaller map is enlarged and added, and a random 3x3 convolution follows. Heads must then use all features, not
    the few that are easiest. `shapes` holds channels and size in pixels of each map, largest first.
    """

    def __init__(self, shapes: dict[str, tuple[int, int]], channels: int = 64) -> None:
        super().__init__()
        self.out_channels = channels
        self.across_channels = nn.ModuleDict(
            {node: nn.Conv2d(width, channels, 1, bias=False) for node, (width, _) in shapes.items()}
        )
        self.across_scales = nn.ModuleDict(
            {node: nn.Conv2d(channels, channels, 3, padding=1, bias=False) for node in shapes}
        )
        for convolution in self.modules():
            if isinstance(convolution, nn.Conv2d):
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
        self.requires_grad_(False)

    def forward(self, maps: dict[str, Float[Tensor, "b ..."]]) -> dict[str, Float[Tensor, "b ..."]]:
        """Mix maps; each keeps its name and size."""
        mixed: dict[str, Tensor] = {}
        smaller: Tensor | None = None
        for node in reversed(list(self.across_channels)):
            x = self.across_channels[node](maps[node])
            if smaller is not None:
                x = (x + F.interpolate(smaller, x.shape[-2:], mode="bilinear")) / math.sqrt(2)
            smaller = mixed[node] = self.across_scales[node](x)
        return mixed


class SpectralCap(nn.Module):
    """A bound `W / max(1, sigma(W) / sigma_0)`: the largest singular value stays at most that of the start.

    It is the identity at first. One power iteration in each call in training mode follows the weight.
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
