"""Scores by nearest neighbors: fidelity, diversity, and copies of training images.

Distances are Euclidean and float64. Two that differ by rounding count as equal, so that repeated images lie
in each other's neighborhoods, whose radius may be zero.

Source:
    Kynkäänniemi et al. 2019, arXiv:1904.06991 (precision, recall); Naeem et al. 2020, arXiv:2002.09797
    (density, coverage); Meehan et al. 2020, arXiv:2004.05675 (copies).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from nacgen.functional.features import block_rows, feature_pair, products_with

ROUNDING = 1e-12  # of squared distances, relative to the largest squared length


class PrecisionRecallDensityCoverage(NamedTuple):
    """Four scores; 1 is perfect, and density may exceed it."""

    precision: Float64[Tensor, ""]
    recall: Float64[Tensor, ""]
    density: Float64[Tensor, ""]
    coverage: Float64[Tensor, ""]


class Memorization(NamedTuple):
    """A comparison of the distances to training images: of generated images, and of test images.

    The probability that a generated image is closer than a test image, with ties counted half, is 0.5 where both
    are drawn alike, near 1 for one that copies, near 0 for one that is far from the data.
    """

    probability: Float64[Tensor, ""]
    z_score: Float64[
        Tensor, ""
    ]  # Mann-Whitney statistic in standard deviations, positive for copies
    distances: Float64[Tensor, " n"]  # from each generated image to its nearest training image
    nearest: Int64[Tensor, " n"]  # index of that training image
    test_distances: Float64[Tensor, " t"]


def precision_recall_density_coverage(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], *, k: int = 5
) -> PrecisionRecallDensityCoverage:
    """Compute how many generated images look real, and how much of the real images is generated.

    The neighborhood of a row is a closed ball that reaches to its `k`-th nearest neighbor in its own set,
    without itself. Precision is the fraction of generated rows in any real neighborhood, and recall the
    fraction of real rows in any generated one. Density is the mean number of real neighborhoods that contain
    a generated row, over `k`. Coverage is the fraction of real neighborhoods that contain a generated row.

    The papers take 5 neighbors for density and coverage, 3 for precision and recall. Memory is linear in the rows.

    Raises:
        ValueError: If the features are not finite float matrices of one width, or have `k` rows or fewer.

    Example:
        >>> rows = torch.randn(20, 4)
        >>> precision_recall_density_coverage(rows, rows).recall
        tensor(1., dtype=torch.float64)
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}. The papers use 3 and 5.")
    real, generated = feature_pair("real", real, "generated", generated, at_least=k + 1)
    real, generated, rounding = _centered(real, generated)
    reach_real = _squared_radii(real, k) + rounding
    reach_generated = _squared_radii(generated, k) + rounding
    precise = dense = 0
    is_recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    is_covered = torch.zeros_like(is_recalled)
    for rows, squared in _squared_distances(generated, real):  # (b, n)
        inside = squared <= reach_real
        precise += int(inside.any(dim=1).sum())
        dense += int(inside.sum())
        is_covered |= inside.any(dim=0)
        is_recalled |= (squared <= reach_generated[rows, None]).any(dim=0)
    scores = (
        precise / len(generated),
        int(is_recalled.sum()) / len(real),
        dense / (k * len(generated)),
        int(is_covered.sum()) / len(real),
    )
    return PrecisionRecallDensityCoverage(*(real.new_tensor(score) for score in scores))


def nearest_neighbor_memorization(
    generated: Float[Tensor, "n d"], train: Float[Tensor, "m d"], test: Float[Tensor, "t d"]
) -> Memorization:
    """Compare generated and unseen real images, `test`, by their distances to the nearest training image.

    Differs from the paper: the statistic is taken over the whole space instead of cell by cell, and its sign is
    reversed, so that a higher value means more copies.

    Raises:
        ValueError: If the features are not finite float matrices of one width and two rows or more.

    Example:
        >>> train, test = torch.zeros(4, 2), torch.ones(4, 2)
        >>> nearest_neighbor_memorization(train, train, test).probability
        tensor(1., dtype=torch.float64)
    """
    generated, _ = feature_pair("generated", generated, "train", train)
    test, train = feature_pair("test", test, "train", train)
    (squared, nearest), (squared_test, _) = (
        _nearest(*_centered(train, rows)) for rows in (generated, test)
    )
    n, t = len(squared), len(squared_test)
    ordered = squared_test.sort().values
    no_closer = torch.searchsorted(ordered, squared)  # test images that are closer than it
    no_farther = torch.searchsorted(ordered, squared, right=True)
    wins = (t - (no_closer + no_farther).double() / 2).sum()
    z_score = (wins - n * t / 2) / (n * t * (n + t + 1) / 12) ** 0.5
    return Memorization(wins / (n * t), z_score, squared.sqrt(), nearest, squared_test.sqrt())


def _centered(real: Tensor, others: Tensor) -> tuple[Tensor, Tensor, float]:
    """Center both sets on the mean of the first, and return the size of rounding errors of squares, too."""
    center = real.mean(dim=0)
    real, others = real - center, others - center
    largest = max(float(rows.square().sum(dim=1).max()) for rows in (real, others))
    return real, others, ROUNDING * largest


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield squared distances of rows of `x` to all of `y`, block by block, with the slice of the rows."""
    lengths = y.square().sum(dim=1)
    for part, products in products_with(x, y, block_rows(y)):
        squared = products.mul_(-2).add_(lengths).add_(x[part].square().sum(dim=1)[:, None])
        yield part, squared


def _squared_radii(rows: Tensor, k: int) -> Tensor:
    radii = []
    for block, squared in _squared_distances(rows, rows):
        squared[:, block].fill_diagonal_(float("inf"))
        radii.append(squared.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(radii)


def _nearest(train: Tensor, rows: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """Return the squared distance to the nearest training row, zero for a copy, and its index."""
    found = [squared.min(dim=1) for _, squared in _squared_distances(rows, train)]
    squared = torch.cat([minimum.values for minimum in found])
    squared = squared.where(squared > rounding, 0.0)
    return squared, torch.cat([minimum.indices for minimum in found])
