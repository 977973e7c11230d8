"""The Fréchet distance between two Gaussians, and between the features of two sets of images.

Source:
    Dowson & Landau 1982, J. Multivariate Analysis 12(3) (the distance of two Gaussians);
    Heusel et al. 2017, arXiv:1706.08500 (its use on Inception features, FID).
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from nacgen.functional.features import feature_pair

ROUNDING = 1e-6  # relative; what lies below zero by less is taken for rounding
CHOLESKY_FROM = 512  # features; below, the root by eigenvectors takes milliseconds, too


class FrechetDistance(NamedTuple):
    """A squared Fréchet distance: `value` is zero or more, `raw` what the arithmetic gave."""

    value: Float64[Tensor, ""]
    raw: Float64[Tensor, ""]


def frechet_distance(
    mean_1: Float64[Tensor, " d"],
    covariance_1: Float64[Tensor, "d d"],
    mean_2: Float64[Tensor, " d"],
    covariance_2: Float64[Tensor, "d d"],
) -> FrechetDistance:
    """Squared Fréchet distance of two Gaussians, `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`.

    With `C1 = S S^T`, the symmetric `S^T C2 S` has the eigenvalues of `C1 C2`; the trace of the root is
    the sum of their roots. From 512 features on `S` is the Cholesky factor where there is one, a third of
    the time; else it is made of the eigenvectors of `C1` that have variance. Those without would each add
    the root of a rounding error, which is none.

    Args:
        mean_1: Mean of the reference.
        covariance_1: Its covariance.
        mean_2: Mean of what is compared with it.
        covariance_2: Its covariance.

    Returns:
        The distance, in squared units of the features; exact to about 1e-12 of the traces, and to
        1e-7 where a covariance is singular.

    Raises:
        ValueError: Sizes differ, a tensor is not float64 or not finite, or a covariance is not
            symmetric or has eigenvalues below zero.
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
    return _distance(mean_1 - mean_2, traces, trace_of_root)


def frechet_distance_from_features(
    features_1: Float[Tensor, "n d"], features_2: Float[Tensor, "m d"]
) -> FrechetDistance:
    """`frechet_distance` of the Gaussians fitted to two samples, by the cheapest route.

    With centred rows `A` and `B`, divided by the root of their number less one, `C1 = A^T A` and
    `C2 = B^T B`. The roots of the eigenvalues of `C1 C2` are the singular values of the `(n, m)` matrix
    `A B^T`, and the eigenvalues themselves those of the `(m, m)` matrix `B C1 B^T`. The first serves two
    samples that are no larger than the dimension, the second one such sample; otherwise the `(d, d)`
    covariances are cheaper.

    Args:
        features_1: One row an image of the reference, of any float type; two rows or more.
        features_2: One row an image of what is compared with it.

    Returns:
        The distance, in squared units of the features; covariances are divided by `n - 1`.

    Raises:
        ValueError: The features are no float matrices of one width, have fewer than two rows, or hold NaN
            or infinity.
    """
    rows_1, rows_2 = feature_pair("features_1", features_1, "features_2", features_2)
    mean_1, mean_2 = rows_1.mean(dim=0), rows_2.mean(dim=0)
    a, b = _factor(rows_1, mean_1), _factor(rows_2, mean_2)
    num_1, num_2, dim = len(a), len(b), a.shape[1]
    if min(num_1, num_2) > dim:
        return frechet_distance(mean_1, a.mT @ a, mean_2, b.mT @ b)
    if max(num_1, num_2) <= dim:
        trace_of_root = torch.linalg.svdvals(a @ b.mT).sum()
    else:
        large, small = (a, b) if num_1 > num_2 else (b, a)
        product = torch.linalg.eigvalsh(small @ (large.mT @ large) @ small.mT)
        trace_of_root = _clip_rounding(product, "the product of the covariances").sqrt().sum()
    traces = a.square().sum() + b.square().sum()
    return _distance(mean_1 - mean_2, traces, trace_of_root)


def frechet_bias(covariance: Float64[Tensor, "d d"], num_1: int, num_2: int) -> Float64[Tensor, ""]:
    """What `frechet_distance` gives on average for two samples of one Gaussian.

    The second-order expansion in the errors of the estimated means and covariances,
    `(1/n1 + 1/n2) (tr C + 1/2 (sum_ij l_i l_j / (l_i + l_j) + 1/2 tr C))` with eigenvalues `l`
    of `C`. It over-predicts where a sample is hardly larger than the dimension.

    Args:
        covariance: Of the Gaussian.
        num_1: Size of the first sample, two or more.
        num_2: Size of the second.

    Returns:
        Expected distance, in squared units of the features.

    Raises:
        ValueError: A sample has fewer than two members, or `covariance` is none.
    """
    if min(num_1, num_2) < 2:
        raise ValueError(
            f"both samples must have two members or more, got {num_1} and {num_2}. "
            "Draw more samples."
        )
    _check_covariance("covariance", covariance)
    eigenvalues = _clip_rounding(torch.linalg.eigvalsh(covariance), "covariance")
    l_i, l_j = rearrange(eigenvalues, "i -> i 1"), rearrange(eigenvalues, "j -> 1 j")
    tiny = torch.finfo(torch.float64).tiny  # 0 / 0 is 0 here
    pairs = (l_i * l_j / (l_i + l_j).clamp(min=tiny)).sum()
    trace = eigenvalues.sum()
    return (1 / num_1 + 1 / num_2) * (trace + (pairs + trace / 2) / 2)


def _symmetric_product(covariance_1: Tensor, covariance_2: Tensor) -> Tensor:
    """`S^T C2 S` for `C1 = S S^T`."""
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


def _distance(shift: Tensor, traces: Tensor, trace_of_root: Tensor) -> FrechetDistance:
    raw = shift.square().sum() + traces - 2 * trace_of_root
    if raw < -ROUNDING * traces.abs():
        raise ValueError(
            f"a Fréchet distance is zero or more, got {raw:.3g} with traces of {traces:.3g}: "
            "covariance_2 has eigenvalues below zero. Estimate it in float64."
        )
    return FrechetDistance(raw.clamp(min=0), raw)


def _factor(rows: Tensor, mean: Tensor) -> Tensor:
    """`A` with `A^T A` the sample covariance."""
    factor: Tensor = (rows - mean) / (len(rows) - 1) ** 0.5
    return factor


def _check_moment(name: str, moment: Tensor) -> None:
    if moment.dtype != torch.float64:
        raise ValueError(
            f"{name} must be float64, got {moment.dtype}. Accumulate in float64; converting "
            "afterwards is too late."
        )
    if not moment.isfinite().all():
        raise ValueError(
            f"{name} must be finite, got {int((~moment.isfinite()).sum())} entries that are NaN or "
            "infinite. Look for them in the features."
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
            f"{name} must have no eigenvalues below zero, got {lowest:.3g} where the largest is "
            f"{scale:.3g} in size. Estimate it in float64."
        )
    return eigenvalues.clamp(min=0)
