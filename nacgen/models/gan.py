"""A residual generator for small images. Its images do not depend on the batch, except with SNGAN's blocks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, check_choice
from nacgen.models.folder import check_memory
from nacgen.models.image_model import PretrainedImageModel
from nacgen.models.sngan import SNGANGeneratorBlock, check_labels, check_num_classes

Block = Literal["small", "sngan"]


def channels_for(image_size: int) -> tuple[int, ...]:
    """Return a small generator's channels from 4x4 to full size: 32 there, and 32 more at each halving."""
    num_doublings = (image_size // 4).bit_length() - 1
    if image_size < 8 or image_size != 4 * 2**num_doublings:
        nearest = 4 * 2 ** max(1, num_doublings)
        raise ConfigurationError(
            f"image_size must be 4 px doubled once or more (8, 16, 32, …) for a generator, got {image_size}. "
            f"Add --data.image-size {nearest}."
        )
    return tuple(32 * factor for factor in range(num_doublings + 1, 0, -1))


def check_upsampling(image_size: int, latent_dim: int, channels: Sequence[int], flag: str) -> None:
    """Refuse sizes that doubling maps of 4 px does not reach; `flag` is that of `channels`, for the message."""
    if not 2 <= len(channels) <= 16 or image_size != 4 * 2 ** (len(channels) - 1):
        raise ConfigurationError(
            f"image_size must be 4 doubled once for each entry of channels after the first, got {image_size} px "
            f"with channels {tuple(channels)}. 16 px need three entries. Without {flag} the recipe chooses them."
        )
    if min(channels) < 8 or any(width % 8 for width in channels):
        raise ConfigurationError(f"channels must be multiples of 8, got {tuple(channels)}.")
    if latent_dim < 1:
        raise ConfigurationError(f"latent_dim must be one or more, got {latent_dim}.")
    widest = max(16 * latent_dim * channels[0], *(9 * a * b for a, b in pairwise(channels)))
    check_memory(widest, f"latent_dim {latent_dim} and channels {tuple(channels)}")


class GeneratorBlock(nn.Module):
    """A block that doubles the resolution: two convolutions, and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        """Apply the block."""
        shortcut = F.interpolate(self.shortcut(x), scale_factor=2.0)
        x = F.interpolate(self.conv1(F.silu(self.norm1(x))), scale_factor=2.0)
        residual: Tensor = self.conv2(F.silu(self.norm2(x)))
        return shortcut + residual


class Generator(nn.Module, PretrainedImageModel):
    """A residual generator, from 4x4 upwards.

    Args:
        image_size: Height and width in pixels, 4 times a power of two, 8 or more.
        latent_dim: Length of the latent vector.
        channels: Channels at 4x4, then after each doubling, see `channels_for`.
        num_classes: Number of classes. With classes, a learned vector per class is appended to the latent.
        block: `"small"`: GroupNorm, convolutions before the doubling; `"sngan"`: BatchNorm, after it, slow.
    """

    about = "The generator of a GAN, from standard normal latents to images."

    def __init__(
        self,
        image_size: int = 16,
        latent_dim: int = 64,
        channels: Sequence[int] = channels_for(16),
        num_classes: int | None = None,
        block: Block = "small",
    ) -> None:
        super().__init__()
        check_upsampling(image_size, latent_dim, channels, "--generator.channels")
        check_choice("block", block, get_args(Block))
        check_num_classes(num_classes)
        what = f"{num_classes} classes of latent_dim {latent_dim}"
        check_memory((num_classes or 0) * latent_dim, what)
        self.latent_dim, self.image_size, self.num_classes = latent_dim, image_size, num_classes
        self.activation = F.silu if block == "small" else F.relu
        make = GeneratorBlock if block == "small" else SNGANGeneratorBlock
        self.first = nn.Linear(latent_dim * (2 if num_classes else 1), channels[0] * 16)
        self.blocks = nn.Sequential(*(make(a, b) for a, b in pairwise(channels)))
        width = channels[-1]
        self.norm = nn.GroupNorm(8, width) if block == "small" else nn.BatchNorm2d(width)
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)
        self.embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        if block == "sngan":
            for layer in (self.first, self.to_rgb):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.constant_(layer.bias, 0)  # type: ignore[arg-type]  # both have one

    def forward(
        self, z: Float[Tensor, "b z"], labels: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Generate images in [-1, 1] from standard normal latents and, if there are classes, labels."""
        check_labels(labels, self.num_classes, len(z))
        if self.embedding is not None:
            z = torch.cat([z, self.embedding(labels)], dim=1)
        x = rearrange(self.first(z), "b (c h w) -> b c h w", h=4, w=4)
        x = self.activation(self.norm(self.blocks(x)))
        return torch.tanh(self.to_rgb(x))
