"""A small U-Net for the velocity of a flow, at a size that CPUs train.

Source:
    Ronneberger, Fischer & Brox 2015, arXiv:1505.04597; Ho, Jain & Abbeel 2020, arXiv:2006.11239, appendix B
    (residual blocks with GroupNorm that a time shifts, attention).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class TimedBlock(nn.Module):
    """Two convolutions, between which a vector of the time is added, and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.shift = nn.Linear(time_dim, out_channels)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        is_same = in_channels == out_channels
        self.shortcut = nn.Identity() if is_same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"], time: Tensor) -> Float[Tensor, "b d h w"]:
        """Apply the block; `time` is `(b, time_dim)`."""
        hidden = self.conv1(F.silu(self.norm1(x))) + rearrange(self.shift(time), "b d -> b d 1 1")
        result: Tensor = self.shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(hidden))))
        return result


class PixelAttention(nn.Module):
    """Self-attention of one head over the pixels of a map, added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.to_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Apply the layer."""
        q, k, v = rearrange(self.to_qkv(self.norm(x)), "b (n c) h w -> n b 1 (h w) c", n=3)
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = rearrange(mixed, "b 1 (h w) c -> b c h w", h=x.shape[2])
        residual: Tensor = self.to_out(mixed)
        return x + residual


class SmallUNet(nn.Module):
    """A U-Net with one block on each level down and up, and two around attention on the smallest map.

    `channels` are those of the levels, of which each has half the height and width of the one before.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 64), dropout: float = 0.0) -> None:
        super().__init__()
        first, last, dim = channels[0], channels[-1], 4 * channels[0]
        self.num_frequencies = first // 2
        self.time = nn.Sequential(nn.Linear(first, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.from_rgb = nn.Conv2d(3, first, 3, padding=1)
        levels = pairwise((first, *channels))
        self.down = nn.ModuleList(TimedBlock(a, b, dim, dropout) for a, b in levels)
        self.before, self.after = (TimedBlock(last, last, dim, dropout) for _ in range(2))
        self.attention = PixelAttention(last)
        levels = pairwise((last, *reversed(channels)))
        self.up = nn.ModuleList(TimedBlock(a + b, b, dim, dropout) for a, b in levels)
        self.norm = nn.GroupNorm(8, first)
        self.to_velocity = nn.Conv2d(first, 3, 3, padding=1)

    def forward(
        self, noisy: Float[Tensor, "b 3 h w"], timestep: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the velocity at noisy images; timesteps go from 0 to 1,000, as is the convention."""
        exponents = torch.linspace(0, -1, self.num_frequencies, device=timestep.device)
        angles = rearrange(timestep, "b -> b 1") * torch.exp(math.log(10_000) * exponents)
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        x, skipped = self.from_rgb(noisy), []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x, time)
            skipped.append(x)
        x = self.after(self.attention(self.before(x, time)), time)
        for level, block in enumerate(self.up):
            x = F.interpolate(x, scale_factor=2.0) if level else x
            x = block(torch.cat([x, skipped.pop()], dim=1), time)
        velocity: Tensor = self.to_velocity(F.silu(self.norm(x)))
        return velocity
