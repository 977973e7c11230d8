"""The kernel distance of two sets of features: the unbiased squared maximum mean discrepancy.

With the kernel `k(x, y) = (x y / d + 1)^3` on Inception features this is the KID.

Source: Bińkowski et al. 2018, arXiv:1801.01401; Gretton et al. 2012, JMLR 13 (the unbiased estimate, eq. 3).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nacgen.functional.features import block_rows, draw_rows, feature_pair, products_with


class KernelDistance(NamedTuple):
    """A kernel distance, which can be below zero because it is unbiased, and its spread."""

    value: Float64[Tensor, ""]
    spread: Float64[Tensor, ""]


def kernel_distance(
    features_1: Float[Tensor, "n d"], features_2: Float[Tensor, "m d"]
) -> KernelDistance:
    """Compute the unbiased squared discrepancy over all pairs of rows, with its standard error as `spread`.

    The value is the mean of the kernel within the first set, plus that within the second, minus twice that
    between them. Its variance is the sum over the terms of Hoeffding's decomposition,

        4/n V1 + 4/m V2 + 2/(n (n-1)) W11 + 2/(m (m-1)) W22 + 4/(n m) W12,

    where V is the variance over a set of a row's mean difference in kernel to the two sets, and W that of the
    kernel without the means of its row and column. Each is estimated without bias. Where the sets are close V is
    about zero; an estimate of V below zero may take away half of the W terms at most.

    Differs from the paper: its estimate, of Sutherland et al. 2017, is for sets of one size; with it this agrees.

    Raises:
        ValueError: If the features are not finite float matrices of one width, or a set has fewer than four rows.

    Example:
        >>> kernel_distance(torch.zeros(8, 2), torch.ones(8, 2)).value
        tensor(7., dtype=torch.float64)

    Source:
        Sutherland et al. 2017, arXiv:1611.04488, appendix; Székely & Rizzo 2014, Annals of Statistics 42 (W11).
    """
    x, y = feature_pair("features_1", features_1, "features_2", features_2, at_least=4)
    n, m = len(x), len(y)
    within_1, within_2, between = _sums_within(x), _sums_within(y), _sums(x, y)
    value = _squared_discrepancy(within_1, within_2, between)

    # Variance of the kernel without the means of its row and column.
    w_1, w_2 = _interaction_within(within_1), _interaction_within(within_2)
    rows, columns = between.over_columns / m, between.over_rows / n
    centered = (
        between.of_squares
        - m * rows.square().sum()
        - n * columns.square().sum()
        + n * m * rows.mean().square()
    )
    w_both = centered / ((n - 1) * (m - 1))

    # Variance of a row's mean difference, less what the kernel's own scatter adds to it.
    v_1 = (within_1.over_columns / (n - 2) - rows).var() - w_1 / (n - 2) - w_both / m
    v_2 = (within_2.over_columns / (m - 2) - columns).var() - w_2 / (m - 2) - w_both / n
    first_order = 4 / n * v_1 + 4 / m * v_2
    second_order = 2 / (n * (n - 1)) * w_1 + 2 / (m * (m - 1)) * w_2 + 4 / (n * m) * w_both
    variance = torch.maximum(first_order + second_order, second_order / 2)
    return KernelDistance(value, variance.clamp(min=0).sqrt())


def kernel_distance_of_subsets(
    features_1: Float[Tensor, "n d"],
    features_2: Float[Tensor, "m d"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Compute the kernel distance as KID is published: mean and deviation over random subsets.

    Subsets are drawn without replacement. The spread is their standard deviation (divided by `num_subsets`); it
    tells how much a subset varies and is not the standard error of the mean.

    Raises:
        ValueError: If the features are not finite float matrices of one width, or rows or subsets are too few.

    Example:
        >>> rows = torch.zeros(8, 2)
        >>> kernel_distance_of_subsets(rows, rows + 1, num_subsets=2, subset_size=4).value
        tensor(7., dtype=torch.float64)
    """
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(
            f"num_subsets must be 1 or more and subset_size 2 or more, got {num_subsets} and {subset_size}. "
            "Published figures use 100 subsets of 1,000."
        )
    rows_1, rows_2 = feature_pair(
        "features_1", features_1, "features_2", features_2, at_least=subset_size
    )
    generator = torch.Generator().manual_seed(seed)
    subsets = (
        (draw_rows(rows_1, subset_size, generator), draw_rows(rows_2, subset_size, generator))
        for _ in range(num_subsets)
    )
    distances = torch.stack(
        [_squared_discrepancy(_sums_within(x), _sums_within(y), _sums(x, y)) for x, y in subsets]
    )
    return KernelDistance(distances.mean(), distances.std(correction=0))


class _KernelSums(NamedTuple):
    """Sums of the kernel over pairs of rows."""

    over_columns: Tensor  # (n,)
    over_rows: Tensor  # (m,)
    of_squares: Tensor


def _squared_discrepancy(within_1: _KernelSums, within_2: _KernelSums, both: _KernelSums) -> Tensor:
    n, m = len(within_1.over_rows), len(within_2.over_rows)
    over_1, over_2, over_both = (each.over_rows.sum() for each in (within_1, within_2, both))
    return over_1 / (n * (n - 1)) + over_2 / (m * (m - 1)) - 2 * over_both / (n * m)


def _interaction_within(sums: _KernelSums) -> Tensor:
    """Return the unbiased variance of the kernel within a set, without the means of its row and column."""
    n, rows = len(sums.over_rows), sums.over_rows
    centered = sums.of_squares - 2 / (n - 2) * rows.square().sum()
    return (centered + rows.sum().square() / ((n - 1) * (n - 2))) / (n * (n - 3))


def _sums(x: Tensor, y: Tensor) -> _KernelSums:
    over_columns, over_rows, of_squares = [], y.new_zeros(len(y)), y.new_zeros(())
    for _, products in products_with(x, y, block_rows(y)):
        kernel = _kernel_(products, x.shape[1])
        over_columns.append(kernel.sum(dim=1))
        over_rows = over_rows + kernel.sum(dim=0)
        of_squares = of_squares + kernel.square_().sum()
    return _KernelSums(torch.cat(over_columns), over_rows, of_squares)


def _sums_within(x: Tensor) -> _KernelSums:
    """Return such sums within one set, without the pairs of a row with itself."""
    itself, sums = _kernel_(x.square().sum(dim=1), x.shape[1]), _sums(x, x)
    return _KernelSums(
        sums.over_columns - itself, sums.over_rows - itself, sums.of_squares - itself.square().sum()
    )


def _kernel_(products: Tensor, dim: int) -> Tensor:
    return products.div_(dim).add_(1).pow_(3)
