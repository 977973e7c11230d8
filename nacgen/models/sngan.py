"""The networks of SNGAN for CIFAR-10, a common baseline.

Source:
    Miyato et al. 2018, arXiv:1802.05957, table 4; with classes as Miyato & Koyama 2018, arXiv:1802.05637.
"""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from nacgen.data.pixels import check_images, has_values
from nacgen.errors import ConfigurationError
from nacgen.models.folder import check_memory


class SNGANGeneratorBlock(nn.Module):
    """A block that doubles the resolution before two convolutions with BatchNorm, and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _convolution(in_channels, out_channels, 3)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = _convolution(out_channels, out_channels, 3)
        self.shortcut = _convolution(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        """Apply the block."""
        shortcut: Tensor = self.shortcut(F.interpolate(x, scale_factor=2.0))
        x = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2.0))
        residual: Tensor = self.conv2(F.relu(self.norm2(x)))
        return shortcut + residual


class SNGANDiscriminatorBlock(nn.Module):
    """A block of two convolutions with spectral norm and a shortcut; `downsample` halves the resolution.

    The first block takes images: no ReLU comes first, and the shortcut halves its input before its convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, downsample: bool, is_first: bool = False
    ) -> None:
        super().__init__()
        self.downsample, self.is_first = downsample, is_first
        self.conv1 = spectral_norm(_convolution(in_channels, out_channels, 3))
        self.conv2 = spectral_norm(_convolution(out_channels, out_channels, 3))
        self.shortcut: nn.Module = nn.Identity()
        if downsample or in_channels != out_channels:
            self.shortcut = spectral_norm(_convolution(in_channels, out_channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Apply the block."""
        residual: Tensor = self.conv2(F.relu(self.conv1(x if self.is_first else F.relu(x))))
        if self.downsample:
            residual = F.avg_pool2d(residual, 2)
        if self.is_first:
            x = F.avg_pool2d(x, 2)
        shortcut: Tensor = self.shortcut(x)
        if self.downsample and not self.is_first:
            shortcut = F.avg_pool2d(shortcut, 2)
        return residual + shortcut


class SNGANDiscriminator(nn.Module):
    """Four residual blocks, a sum over pixels, and a linear map, all with spectral norm.

    With classes, the inner product of the features and the class's embedding is added to the logit.
    """

    def __init__(self, channels: int = 128, num_classes: int | None = None) -> None:
        super().__init__()
        widest = channels * max(9 * channels, num_classes or 0)
        check_memory(widest, f"channels {channels} and {num_classes} classes")
        self.num_classes = num_classes
        self.blocks = nn.Sequential(
            SNGANDiscriminatorBlock(3, channels, downsample=True, is_first=True),
            SNGANDiscriminatorBlock(channels, channels, downsample=True),
            SNGANDiscriminatorBlock(channels, channels, downsample=False),
            SNGANDiscriminatorBlock(channels, channels, downsample=False),
        )
        linear = nn.Linear(channels, 1)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.linear = spectral_norm(linear)
        self.embedding = spectral_norm(nn.Embedding(num_classes, channels)) if num_classes else None

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Int64[Tensor, " b"] | None = None,
        full_precision: bool = False,
    ) -> Float[Tensor, " b"]:
        """Return one logit per image in [-1, 1], high for images that look real.

        The size is a multiple of 4 px. `full_precision` leaves autocast, as gradient penalties must.
        """
        check_images(images, self)
        check_labels(labels, self.num_classes, len(images))
        device = images.device.type
        with torch.autocast(device, enabled=False) if full_precision else nullcontext():
            features = reduce(F.relu(self.blocks(images)), "b c h w -> b c", "sum")
            logits: Tensor = self.linear(features).squeeze(1)
            if self.embedding is not None:
                logits = logits + (self.embedding(labels) * features).sum(1)
        return logits


def check_labels(labels: Tensor | None, num_classes: int | None, num_images: int) -> None:
    """Raise a `ConfigurationError` unless labels are given where a network has classes, and are classes."""
    if (labels is None) != (num_classes is None):
        given = "none" if labels is None else f"{len(labels)}"
        raise ConfigurationError(
            f"labels must be given exactly where a network has classes, got {given} for num_classes "
            f"{num_classes}. Build it with num_classes, or leave the labels out."
        )
    if labels is None or num_classes is None or torch.compiler.is_compiling():
        return
    got = f"a {type(labels).__name__}"
    if isinstance(labels, Tensor):
        got = f"{labels.dtype} {tuple(labels.shape)}"
        if labels.dtype in (torch.int64, torch.int32) and labels.shape == (num_images,):
            # An accelerator would have to be waited for, and stops at a class beyond the last by itself.
            if labels.device.type != "cpu" or not has_values(labels):
                return
            if labels.min() >= 0 and labels.max() < num_classes:
                return
            got = f"{labels.min()} to {labels.max()}"
    raise ConfigurationError(
        f"labels must be one class for each image, int64 ({num_images},) from 0 to {num_classes - 1}, got {got}. "
        "Convert them with .long(), one-hot ones with .argmax(1)."
    )


def check_num_classes(num_classes: int | None) -> None:
    """Raise a `ConfigurationError` if a network is to have zero classes or less; None means no classes."""
    if num_classes is not None and not (hasattr(num_classes, "__index__") and num_classes > 0):
        raise ConfigurationError(f"num_classes must be one or more, or None, got {num_classes!r}.")


def _convolution(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    """Make a convolution with Xavier initialization, with the gain of a ReLU except in shortcuts."""
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
    nn.init.xavier_uniform_(convolution.weight, gain=math.sqrt(2) if size > 1 else 1.0)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
