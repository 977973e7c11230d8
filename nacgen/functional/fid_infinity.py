"""The Fréchet distance extrapolated to infinitely many generated images.

Source: Chong & Forsyth 2020, arXiv:1911.07023.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nacgen.functional.features import draw_rows, feature_rows
from nacgen.functional.frechet import frechet_distance


class FIDInfinity(NamedTuple):
    """The intercept of a line fitted to distances over `1 / n`; the bias by the reference's size remains in it.

    The standard error does not tell how much another sample would differ: all sizes draw from the same images.
    """

    value: Float64[Tensor, ""]
    standard_error: Float64[Tensor, ""]  # from the residuals of the line
    slope: Float64[Tensor, ""]  # bias of the distance of `n` images, times `n`


def fid_infinity(
    mean: Float64[Tensor, " d"],
    covariance: Float64[Tensor, "d d"],
    features: Float[Tensor, "n d"],
    *,
    num_sizes: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> FIDInfinity:
    """Extrapolate the Fréchet distance of `n` generated images to infinitely many by a least-squares line.

    Differs from the paper: images are drawn by a plain random generator, as those of a training run are.

    Mean and covariance are those of the reference; features have a row for each generated image. The line is
    fitted to sizes evenly spaced from `smallest` up to all rows. It exceeds the dimension, below which the
    bias is not proportional to `1 / n`; by default it is a tenth of the rows or twice the dimension.

    Raises:
        ValueError: If the features are not a finite float matrix, or sizes or moments are invalid.

    Example:
        >>> moments = torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64)
        >>> fid_infinity(*moments, torch.randn(2000, 1)).value < 0.1
        tensor(True)
    """
    rows = feature_rows("features", features)
    n, dim = rows.shape
    smallest = max(n // 10, 2 * dim) if smallest is None else smallest
    if num_sizes < 3 or not dim < smallest <= n - num_sizes + 1:
        raise ValueError(
            f"num_sizes must be 3 or more, and sizes must rise from more than the dimension to all rows, got "
            f"{num_sizes} sizes from {smallest} to {n} for {dim} features. Score more images."
        )
    sizes = torch.linspace(smallest, n, num_sizes, dtype=torch.float64).round().long().tolist()
    generator = torch.Generator().manual_seed(seed)
    distances = []
    for size in sizes:
        drawn = draw_rows(rows, size, generator)
        moments = drawn.mean(dim=0), torch.cov(drawn.mT).reshape(dim, dim)
        distances.append(frechet_distance(mean, covariance, *moments).raw)
    return _intercept(1 / torch.tensor(sizes).to(rows), torch.stack(distances))


def _intercept(x: Tensor, y: Tensor) -> FIDInfinity:
    centered = x - x.mean()
    slope = (centered @ y) / (centered @ centered)
    intercept = y.mean() - slope * x.mean()
    variance = (y - intercept - slope * x).square().sum() / (len(x) - 2)
    error = variance * (1 / len(x) + x.mean().square() / (centered @ centered))
    return FIDInfinity(intercept, error.sqrt(), slope)
