"""Generator and discriminator for small images. Nothing in them depends on the batch."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.backbones import Backbone
from nacgen.models.encoder import normalize_input
from nacgen.models.folder import PretrainedModel


class GeneratorBlock(nn.Module):
    """Doubles the resolution: two convolutions, and a shortcut around them."""

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


class Generator(nn.Module, PretrainedModel):
    """A residual generator, from 4x4 upwards.

    Args:
        image_size: Height and width in pixels, 4 times a power of two, 8 or more.
        latent_dim: Length of `z`.
        channels: At 4x4, then after each doubling.

    Raises:
        ConfigurationError: Size and number of channels do not fit, or channels are no multiples of 8.
    """

    def __init__(
        self,
        image_size: int = 16,
        latent_dim: int = 64,
        channels: Sequence[int] = (128, 64, 32),
    ) -> None:
        super().__init__()
        if len(channels) < 2 or image_size != 4 * 2 ** (len(channels) - 1):
            raise ConfigurationError(
                f"image_size must be 4 doubled once for each entry of channels after the first, got "
                f"{image_size} px with channels {tuple(channels)}. 16 px need three entries, 32 px four; "
                "without --generator.channels the recipe chooses them."
            )
        if min(channels) < 8 or any(width % 8 for width in channels):
            raise ConfigurationError(f"channels must be multiples of 8, got {tuple(channels)}.")
        if latent_dim < 1:
            raise ConfigurationError(f"latent_dim must be one or more, got {latent_dim}.")
        self.latent_dim, self.image_size = latent_dim, image_size
        self.first = nn.Linear(latent_dim, channels[0] * 16)
        self.blocks = nn.Sequential(*(GeneratorBlock(a, b) for a, b in pairwise(channels)))
        self.norm = nn.GroupNorm(8, channels[-1])
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [-1, 1] from standard normal latents.

        Args:
            z: Latents.

        Returns:
            Images.

        Raises:
            ValueError: The latents have another width.
        """
        if z.shape[1] != self.latent_dim:
            raise ValueError(
                f"z must have {self.latent_dim} columns for this generator, got {z.shape[1]}."
            )
        x = rearrange(self.first(z), "b (c h w) -> b c h w", h=4, w=4)
        x = F.silu(self.norm(self.blocks(x)))
        return torch.tanh(self.to_rgb(x))


def channels_for(image_size: int) -> tuple[int, ...]:
    """Channels of a small generator: 32 at full size, 32 more at each halving, `(96, 64, 32)` for 16 px.

    Args:
        image_size: Height and width in pixels.

    Returns:
        At 4x4, then after each doubling.

    Raises:
        ConfigurationError: The size is not 4 times a power of two, 8 or more.
    """
    num_doublings = (image_size // 4).bit_length() - 1
    if image_size < 8 or image_size != 4 * 2**num_doublings:
        nearest = 4 * 2 ** max(1, num_doublings)
        raise ConfigurationError(
            f"image_size must be 4 px doubled once or more (8, 16, 32, …) for a generator, got {image_size}. "
            f"Add --data.image-size {nearest}."
        )
    return tuple(32 * factor for factor in range(num_doublings + 1, 0, -1))


class BasisHead(nn.Module):
    """One logit from a feature map: a convolution, learned weights over pixels, a linear map.

    Source:
        The depthwise-then-linear output of Huang et al. 2024, arXiv:2501.05441.
    """

    def __init__(self, in_channels: int, map_size: int, channels: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.basis = nn.Conv2d(channels, channels, map_size, groups=channels, bias=False)
        self.linear = nn.Linear(channels, 1)

    def forward(self, feature_map: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1"]:
        """One logit an image."""
        x = self.basis(F.leaky_relu(self.conv(feature_map), 0.2))
        logits: Tensor = self.linear(rearrange(x, "b c 1 1 -> b c"))
        return logits


class RGBBranch(nn.Module):
    """A small trainable network on the pixels, for colours that a frozen trunk does not see."""

    def __init__(self, image_size: int, channels: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.head = BasisHead(2 * channels, image_size // 2)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1"]:
        """One logit an image."""
        x = F.leaky_relu(self.conv1(images), 0.2)
        logits: Tensor = self.head(F.leaky_relu(self.conv2(x), 0.2))
        return logits


class Discriminator(nn.Module):
    """A trunk without batch statistics, a head on each tapped stage, and perhaps an RGB branch.

    Args:
        trunk: A trunk whose BatchNorm is folded.
        mean: `(3, 1, 1)`, the trunk's input normalisation.
        std: `(3, 1, 1)`.
        image_size: Height and width in pixels.
        taps: Stages that get a head.
        frozen_stages: Stages that never train.
        rgb_branch: Whether to add one.

    Raises:
        ConfigurationError: The images are too small for the trunk, or a tap does not exist.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: Backbone,
        mean: Tensor,
        std: Tensor,
        image_size: int,
        taps: Sequence[str],
        frozen_stages: Sequence[str] = (),
        rgb_branch: bool = False,
    ) -> None:
        super().__init__()
        self.trunk, self.frozen_stages = trunk, tuple(frozen_stages)
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())
        unknown = [tap for tap in (*taps, *frozen_stages) if tap not in trunk.stage_channels]
        if unknown or not taps:
            raise ConfigurationError(
                f"taps and frozen stages must be among {', '.join(trunk.stage_channels)}, and one tap at "
                f"least, got {', '.join(unknown) or 'no tap'}."
            )
        with torch.no_grad():
            maps = trunk(torch.zeros(1, 3, image_size, image_size).to(mean))
        self.heads = nn.ModuleDict(
            {tap: BasisHead(maps[tap].shape[1], maps[tap].shape[-1]) for tap in taps}
        )
        self.rgb_branch = RGBBranch(image_size) if rgb_branch else None
        for stage in self.frozen_stages:
            for module in trunk.stages()[stage]:
                module.requires_grad_(False)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], full_precision: bool = False
    ) -> Float[Tensor, "b *n"]:
        """Logits, high for images taken to be real.

        Args:
            images: In [-1, 1].
            full_precision: Leave autocast, as gradient penalties must.

        Returns:
            `(b,)` from one head, `(b, n)` from several.
        """
        device = images.device.type
        with torch.autocast(device, enabled=False) if full_precision else nullcontext():
            maps = self.trunk(normalize_input(images, self.mean, self.std))
            logits = [head(maps[tap]) for tap, head in self.heads.items()]
            if self.rgb_branch is not None:
                logits.append(self.rgb_branch(images))
            stacked = torch.cat(logits, dim=1)  # -> (b, n)
        return stacked.squeeze(1) if stacked.shape[1] == 1 else stacked
