"""The Fréchet distance between two Gaussians, its bias, and its extrapolation to infinitely many images.

Source:
    Dowson & Landau 1982, J. Multivariate Analysis 12(3) (the distance of two Gaussians);
    Heusel et al. 2017, arXiv:1706.08500 (its use on Inception features, FID);
    Chong & Forsyth 2020, arXiv:1911.07023 (infinitely many images).
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from nacgen.functional.features import draw_rows, feature_rows

ROUNDING = 1e-6  # relative; values below zero by less count as rounding errors
CHOLESKY_FROM = 512  # features; for fewer, the root by eigenvectors is fast, too


class FrechetDistance(NamedTuple):
    """A squared Fréchet distance: `raw` as computed, and `value`, which rounding cannot push below zero."""

    value: Float64[Tensor, ""]
    raw: Float64[Tensor, ""]


class FIDInfinity(NamedTuple):
    """The intercept of a line fitted to distances over `1 / n`; the bias by the reference's size remains in it.

    The standard error does not tell how much another sample would differ: all sizes draw from the same images.
    """

    value: Float64[Tensor, ""]
    standard_error: Float64[Tensor, ""]  # from the residuals of the line
    slope: Float64[Tensor, ""]  # bias of the distance of `n` images, times `n`


def frechet_distance(
    mean_1: Float64[Tensor, " d"],
    covariance_1: Float64[Tensor, "d d"],
    mean_2: Float64[Tensor, " d"],
    covariance_2: Float64[Tensor, "d d"],
) -> FrechetDistance:
    """Compute the squared Fréchet distance of two Gaussians, `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`.

    With `C1 = S S^T`, the symmetric matrix `S^T C2 S` has the eigenvalues of `C1 C2`; the trace of the root
    is the sum of their roots. From 512 features on, `S` is the Cholesky factor if it exists, which takes a
    third of the time. Else `S` has the eigenvectors of `C1` with variance; others add roots of rounding errors.

    The distance is exact to about 1e-12 of the traces, and to 1e-7 if a covariance is singular.

    Raises:
        ValueError: If sizes differ, a tensor is not finite float64, or a covariance is invalid.

    Example:
        >>> mean, covariance = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
        >>> frechet_distance(mean, covariance, mean + 1, covariance).value
        tensor(2., dtype=torch.float64)
    """
    _check_moment("mean_1", mean_1)
    _check_moment("mean_2", mean_2)
    _check_covariance("covariance_1", covariance_1)
    _check_covariance("covariance_2", covariance_2)
    if not mean_1.shape == mean_2.shape == covariance_1.shape[:1] == covariance_2.shape[:1]:
        raise ValueError(
            "means must be (d,) and covariances (d, d), with one d for both Gaussians, got "
            f"{tuple(mean_1.shape)}, {tuple(covariance_1.shape)}, {tuple(mean_2.shape)} and "
            f"{tuple(covariance_2.shape)}. Compare features of one extractor."
        )
    product = torch.linalg.eigvalsh(_symmetric_product(covariance_1, covariance_2))
    trace_of_root = _clip_rounding(product, "covariance_1 @ covariance_2").sqrt().sum()
    traces = covariance_1.trace() + covariance_2.trace()
    raw = (mean_1 - mean_2).square().sum() + traces - 2 * trace_of_root
    if raw < -ROUNDING * traces.abs():
        raise ValueError(
            f"a Fréchet distance is zero or more, got {raw:.3g} with traces of {traces:.3g}: "
            "covariance_2 has eigenvalues below zero. Estimate it in float64."
        )
    return FrechetDistance(raw.clamp(min=0), raw)


def frechet_bias(covariance: Float64[Tensor, "d d"], num_1: int, num_2: int) -> Float64[Tensor, ""]:
    """Compute the average of `frechet_distance` for two samples of one Gaussian, of `num_1` and `num_2` members.

    This is the second-order expansion in the errors of the estimated means and covariances, `(1/n1 + 1/n2) (tr C +
    1/2 (sum_ij l_i l_j / (l_i + l_j) + 1/2 tr C))` with `l` the eigenvalues of `C`. It is too large if a sample is
    hardly larger than the dimension, and 12 to 15 % too small for the heavy-tailed features of photographs.

    Raises:
        ValueError: If a sample has fewer than two members, or if `covariance` is not a covariance.

    Example:
        >>> frechet_bias(torch.eye(1, dtype=torch.float64), 100, 100)
        tensor(0.0300, dtype=torch.float64)
    """
    if min(num_1, num_2) < 2:
        raise ValueError(
            f"both samples must have two members or more, got {num_1} and {num_2}. Draw more samples."
        )
    _check_covariance("covariance", covariance)
    eigenvalues = _clip_rounding(torch.linalg.eigvalsh(covariance), "covariance")
    l_i, l_j = rearrange(eigenvalues, "i -> i 1"), rearrange(eigenvalues, "j -> 1 j")
    tiny = torch.finfo(torch.float64).tiny  # 0 / 0 is 0 here
    pairs = (l_i * l_j / (l_i + l_j).clamp(min=tiny)).sum()
    trace = eigenvalues.sum()
    return (1 / num_1 + 1 / num_2) * (trace + (pairs + trace / 2) / 2)


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


def _symmetric_product(covariance_1: Tensor, covariance_2: Tensor) -> Tensor:
    """Return `S^T C2 S` for `C1 = S S^T`."""
    if len(covariance_1) >= CHOLESKY_FROM:
        factor, failed = torch.linalg.cholesky_ex(covariance_1)
        if not failed:
            return factor.mT @ covariance_2 @ factor  # type: ignore[no-any-return]
    eigenvalues, axes = torch.linalg.eigh(covariance_1)
    eigenvalues = _clip_rounding(eigenvalues, "covariance_1")
    lowest = len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues.max()
    has_variance = eigenvalues >= lowest  # all of them where all are zero
    factor = axes[:, has_variance] * eigenvalues[has_variance].sqrt()  # (d, r)
    return factor.mT @ covariance_2 @ factor  # type: ignore[no-any-return]


def _check_moment(name: str, moment: Tensor) -> None:
    if moment.dtype != torch.float64:
        raise ValueError(
            f"{name} must be float64, got {moment.dtype}. Accumulate in float64 from the start."
        )
    if not moment.isfinite().all():
        raise ValueError(
            f"{name} must be finite, got {int((~moment.isfinite()).sum())} entries that are not. Check features."
        )


def _check_covariance(name: str, covariance: Tensor) -> None:
    _check_moment(name, covariance)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"{name} must be (d, d), got {tuple(covariance.shape)}.")
    asymmetry = (covariance - covariance.mT).abs().max()
    if asymmetry > ROUNDING * covariance.abs().max():
        raise ValueError(
            f"{name} must be symmetric, got entries that differ from their mirror image by "
            f"{asymmetry:.3g}. Pass a covariance, not a factor of it."
        )


def _clip_rounding(eigenvalues: Tensor, name: str) -> Tensor:
    lowest, scale = eigenvalues.min(), eigenvalues.abs().max()
    if lowest < -ROUNDING * scale:
        raise ValueError(
            f"{name} must have no eigenvalues below zero, got {lowest:.3g} where the largest is {scale:.3g} in "
            "size. Estimate it in float64."
        )
    return eigenvalues.clamp(min=0)
