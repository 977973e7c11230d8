"""The Fréchet distance that infinitely many generated images would have.

Source:
    Chong & Forsyth 2020, arXiv:1911.07023.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nacgen.functional.features import draw_rows, feature_rows
from nacgen.functional.frechet import frechet_distance


class FIDInfinity(NamedTuple):
    """Where the line of distances over `1 / n` meets zero.

    Args:
        value: The intercept; the bias of the reference's own size remains in it.
        standard_error: Of the intercept, from the residuals of the line: how straight it is, not how much
            another sample would differ, since all sizes share the same images.
        slope: What the distance loses from `n` images to infinitely many, times `n`.
    """

    value: Float64[Tensor, ""]
    standard_error: Float64[Tensor, ""]
    slope: Float64[Tensor, ""]


def fid_infinity(
    mean: Float64[Tensor, " d"],
    covariance: Float64[Tensor, "d d"],
    features: Float[Tensor, "n d"],
    *,
    num_sizes: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> FIDInfinity:
    """Extrapolate the Fréchet distance of `n` generated images to infinitely many.

    Differs from the paper: images are drawn by a plain random generator, as those of a training run are.

    Args:
        mean: Of the reference.
        covariance: Of the reference.
        features: One row a generated image, of any float type.
        num_sizes: Samples of how many sizes the line is fitted to, evenly spaced up to all rows; three or more.
        smallest: The smallest of these sizes; more than the dimension, below which the bias is no multiple
            of `1 / n`. Absent: a tenth of the rows as in the paper, or twice the dimension where that is more.
        seed: Of the draws.

    Returns:
        The intercept of the least-squares line, with its standard error and slope.

    Raises:
        ValueError: The features are no float matrix, too few or not finite, or the numbers leave fewer than
            three sizes; or as `frechet_distance`.
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
