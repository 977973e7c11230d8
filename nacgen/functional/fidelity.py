"""Pixelwise similarity of two images: PSNR and SSIM.

Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".
"""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # the paper's, in pixels
LUMINANCE, CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # the paper's constants


def psnr(
    images_a: UInt8[Tensor, "b c h w"], images_b: UInt8[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Compute the peak signal-to-noise ratio in decibels, `10 log10(255^2 / mean squared error)`.

    Images have values 0 to 255. The ratio of equal images is infinite.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        >>> psnr(black, black + 255)
        tensor([0.])
    """
    _check_shapes(images_a, images_b)
    error = reduce((images_a.float() - images_b.float()).square(), "b c h w -> b", "mean")
    ratio: Tensor = torch.log10(255**2 / error)
    return 10 * ratio


def ssim(
    images_a: UInt8[Tensor, "b c h w"], images_b: UInt8[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Compute the structural similarity, averaged over channels and over all windows inside the image.

    Images have values 0 to 255. The similarity is at most 1, which equal images have.

    Raises:
        ValueError: If the shapes differ, or if the images are smaller than the window of 11 pixels.

    Example:
        >>> black = torch.zeros(1, 3, 11, 11, dtype=torch.uint8)
        >>> ssim(black, black)
        tensor([1.])
    """
    _check_shapes(images_a, images_b)
    if min(images_a.shape[-2:]) < WINDOW:
        raise ValueError(
            f"structural similarity looks through a window of {WINDOW} px, got images of "
            f"{images_a.shape[-2]}x{images_a.shape[-1]}. Use larger images."
        )
    a, b = images_a.double(), images_b.double()  # variances are differences of near numbers
    mean_a, mean_b, square_a, square_b, product = _blur(torch.stack([a, b, a * a, b * b, a * b]))
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    index = (2 * mean_a * mean_b + LUMINANCE) * (2 * covariance + CONTRAST)
    index = index / ((mean_a**2 + mean_b**2 + LUMINANCE) * (variances + CONTRAST))
    similarity: Tensor = reduce(index, "b c h w -> b", "mean")
    return similarity.float()


def _blur(maps: Tensor) -> Tensor:
    """Return Gaussian means over all windows, `(v, b, c, h, w)` -> `(v, b, c, h - 10, w - 10)`."""
    offsets = torch.arange(WINDOW, device=maps.device, dtype=maps.dtype) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights = weights / weights.sum()
    rows = rearrange(maps, "v b c h w -> (v b c) 1 h w")
    rows = F.conv2d(F.conv2d(rows, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return rearrange(rows, "(v b c) 1 h w -> v b c h w", v=maps.shape[0], b=maps.shape[1])


def _check_shapes(images_a: Tensor, images_b: Tensor) -> None:
    if images_a.shape != images_b.shape:
        raise ValueError(
            f"images must have one shape, got {tuple(images_a.shape)} and {tuple(images_b.shape)}. Resize some."
        )
