"""Three ways to bring images to the size of a feature network, which give three different scores.

Source:
    pytorch-fid 0.3.0 (`pytorch_fid`); TensorFlow 1's ResizeBilinear, in which Heusel et al. 2017,
    arXiv:1706.08500, computed the FID (`tf1`); Parmar et al. 2022, arXiv:2104.11222 (`clean`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


class Resize(NamedTuple):
    """A convention: resize of pixels in 0 to 255, normalization after it, and the formula of the latter."""

    apply: Callable[[Float[Tensor, "b 3 h w"], int], Float[Tensor, "b 3 s s"]]
    normalize: Callable[[Float[Tensor, "b 3 s s"]], Float[Tensor, "b 3 s s"]]
    normalization: str


def resize_bilinear(pixels: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c s s"]:
    """Resize bilinearly with half-pixel centers, without antialiasing: `[0, 100]` becomes `[0, 25, 75, 100]`."""
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)


def resize_tf1(pixels: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c s s"]:
    """Resize bilinearly on TensorFlow 1's grid, with output `i` at input `i * h / size`.

    `[0, 100]` becomes `[0, 50, 100, 100]`.
    """
    rows, columns = pixels.shape[-2:]
    near, far, weight = _tf1_grid(columns, size, pixels.device)
    left, right = pixels.index_select(-1, near), pixels.index_select(-1, far)
    pixels = left + (right - left) * weight  # (b, c, h, w) -> (b, c, h, s)
    near, far, weight = _tf1_grid(rows, size, pixels.device)
    upper, lower = pixels.index_select(-2, near), pixels.index_select(-2, far)
    return upper + (lower - upper) * rearrange(weight, "s -> s 1")  # (b, c, h, s) -> (b, c, s, s)


def resize_clean(pixels: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c s s"]:
    """Resize pixels in 0 to 255 as Pillow does on float channels: bicubic, antialiased, clipped, not rounded."""
    resized = F.interpolate(
        pixels, (size, size), mode="bicubic", align_corners=False, antialias=True
    )
    return resized.clamp(0, 255)


def _tf1_grid(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Find both neighbors of every output position along one axis, and the weight of the second."""
    positions = torch.arange(size, device=device) * torch.tensor(length / size, device=device)
    near = positions.floor().long()
    return near, (near + 1).clamp(max=length - 1), positions - near


RESIZES = {
    "pytorch_fid": Resize(
        # pytorch-fid's own order of operations, for its last bits
        lambda pixels, size: resize_bilinear(pixels / 255, size),
        lambda resized: 2 * resized - 1,
        "(u - 127.5) / 127.5",
    ),
    "tf1": Resize(resize_tf1, lambda resized: (resized - 128) / 128, "(u - 128) / 128"),
    "clean": Resize(resize_clean, lambda resized: (resized - 128) / 128, "(u - 128) / 128"),
}
