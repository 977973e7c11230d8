"""From a generator's floats to the whole numbers that a PNG holds, and that scores are taken of."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nacgen.errors import DataError, NonFiniteError

QUANTIZATION = "uint8, round half up"


def to_uint8(images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Quantise images in [-1, 1] to 0 to 255, rounding half up.

    Args:
        images: In [-1, 1].

    Returns:
        What would be saved as PNG.

    Raises:
        NonFiniteError: A pixel is NaN.
        DataError: A pixel lies outside of [-1, 1].
    """
    outside = images[~(images.abs() <= 1)]  # NaN among them
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
    """Pixels 0..255 to the models' range of -1 to 1."""
    return images.float() / 127.5 - 1
