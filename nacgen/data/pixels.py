"""Conversion of images between floats in [-1, 1], as models use them, and uint8, as files and scores use them."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nacgen.errors import DataError, NonFiniteError

QUANTIZATION = "uint8, round half up"


def to_uint8(images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Quantize images in [-1, 1] to whole numbers from 0 to 255, rounding half up.

    Raises:
        NonFiniteError: A pixel is NaN.
        DataError: A pixel lies outside of [-1, 1].

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)).flatten()
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    outside = images[~(images.abs() <= 1)]  # NaN included
    if outside.isnan().any():
        raise NonFiniteError(
            f"images must be numbers, got NaN in {int(outside.isnan().sum())} of {images.numel()} "
            "pixels. Look at the weights of the model that made them."
        )
    if len(outside) > 0:
        raise DataError(
            f"images must lie in [-1, 1], got values from {images.min():.4g} to "
            f"{images.max():.4g}. Scale them, or clamp them where the model is meant to overshoot."
        )
    return (127.5 * images.float() + 128).to(torch.uint8)  # 127.5 (x + 1) + 1/2, cut off


def to_float(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Convert images from 0 to 255 into floats in [-1, 1].

    Example:
        >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)).flatten()
        tensor([-1.0000, -0.6000,  1.0000])
    """
    return images.float() / 127.5 - 1
