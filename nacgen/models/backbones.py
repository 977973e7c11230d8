"""Residual networks with torchvision's parameter names, free widths and free stems.

torchvision fixes the widths at 64 to 512 and the stem at ImageNet's, hence a class of our own; its
`resnet18` loads these weights and gives the same features.

Source:
    He et al. 2016, arXiv:1512.03385.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError

Stem = Literal["small", "standard"]


@dataclass(frozen=True)
class BackboneShape:
    """Blocks and channels of each stage."""

    blocks: tuple[int, ...]
    channels: tuple[int, ...]


BACKBONES = {
    "tiny": BackboneShape(blocks=(1, 1, 1), channels=(16, 32, 64)),
    "resnet18": BackboneShape(blocks=(2, 2, 2, 2), channels=(64, 128, 256, 512)),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Apply the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(nn.Module):
    """The trunk of a residual network, without pooling and classifier.

    Args:
        name: One of `BACKBONES`.
        stem: `"small"`, a 3x3 convolution for images up to 64 px, or `"standard"`, ImageNet's 7x7 with
            stride 2 and max-pooling.

    Raises:
        ConfigurationError: The name or stem is unknown.
    """

    def __init__(self, name: str = "tiny", stem: Stem = "small") -> None:
        super().__init__()
        if name not in BACKBONES:
            raise ConfigurationError(
                f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}."
            )
        if stem not in ("small", "standard"):
            raise ConfigurationError(f"stem must be small or standard, got {stem!r}.")
        shape = BACKBONES[name]
        self.stem = stem
        width = shape.channels[0]
        kernel, stride = (3, 1) if stem == "small" else (7, 2)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stage_channels = {"stem": width}
        for i, (blocks, channels) in enumerate(zip(shape.blocks, shape.channels, strict=True), 1):
            first = BasicBlock(width, channels, stride=1 if i == 1 else 2)
            rest = [BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
            self.add_module(f"layer{i}", nn.Sequential(first, *rest))
            self.stage_channels[f"layer{i}"] = width = channels
        self.feature_dim = width
        self.total_stride = 2 ** (len(shape.blocks) - 1) * (4 if stem == "standard" else 1)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """He initialisation of convolutions (fan-out), ones and zeros for BatchNorm, as torchvision."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def stages(self) -> dict[str, list[nn.Module]]:
        """The modules of each stage, stem first."""
        named = dict(self.named_children())
        return {
            stage: [self.conv1, self.bn1] if stage == "stem" else [named[stage]]
            for stage in self.stage_channels
        }

    def convolution_norm_pairs(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Each convolution with the BatchNorm behind it, as (owner, convolution's name, norm's name)."""
        for owner in self.modules():
            for name, child in owner.named_children():
                if isinstance(child, nn.Conv2d):
                    norm = str(int(name) + 1) if name.isdigit() else name.replace("conv", "bn")
                    yield owner, name, norm

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Feature maps of every stage.

        Args:
            images: Normalised images.

        Returns:
            `{"stem": (b, c, h, w), "layer1": ..., ...}`, after the last ReLU of each stage; for the
            standard stem before its max-pooling.

        Raises:
            ConfigurationError: The images are smaller than the total stride.
        """
        if min(images.shape[-2:]) < self.total_stride:
            raise ConfigurationError(
                f"images must be at least {self.total_stride} px high and wide for this encoder, got "
                f"{images.shape[-2]}x{images.shape[-1]}. Use larger images, or an encoder with fewer stages "
                "or the small stem."
            )
        x = F.relu(self.bn1(self.conv1(images)))
        maps = {"stem": x}
        if self.stem == "standard":
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in list(self.stage_channels)[1:]:
            x = getattr(self, stage)(x)
            maps[stage] = x
        return maps
