"""The kernel distance of two sets of features: the unbiased squared maximum mean discrepancy.

With the kernel `k(x, y) = (x y / d + 1)^3` on Inception features this is the KID.

Source:
    Bińkowski et al. 2018, arXiv:1801.01401; Gretton et al. 2012, JMLR 13 (the unbiased estimate, eq. 3).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import one_hot

from nacgen.functional.features import block_rows, draw_rows, feature_pair


class KernelDistance(NamedTuple):
    """A kernel distance, which can be below zero because it is unbiased, and its spread."""

    value: Float64[Tensor, ""]
    spread: Float64[Tensor, ""]


def kernel_distance(
    features_1: Float[Tensor, "n d"], features_2: Float[Tensor, "m d"], *, num_blocks: int = 20
) -> KernelDistance:
    """Compute the unbiased squared discrepancy over all pairs of rows, with its standard error as `spread`.

    The value is the mean of the kernel within the first set, plus that within the second, minus twice that
    between them. The standard error comes from a block jackknife: each set is cut into `num_blocks` blocks in
    the order of its rows, which must therefore be exchangeable, and one block of each is left out in turn.

    Each set needs as many rows as blocks, and two rows without any block: at least three, or four for two blocks.

    Raises:
        ValueError: If the features are not finite float matrices of one width, or rows or blocks are too few.

    Example:
        >>> kernel_distance(torch.zeros(8, 2), torch.ones(8, 2), num_blocks=2).value
        tensor(7., dtype=torch.float64)
    """
    if num_blocks < 2:
        raise ValueError(f"num_blocks must be 2 or more, got {num_blocks}. Take the default, 20.")
    at_least = 4 if num_blocks == 2 else num_blocks
    rows_1, rows_2 = feature_pair("features_1", features_1, "features_2", features_2, at_least)
    blocks_1, blocks_2 = _blocks(rows_1, num_blocks), _blocks(rows_2, num_blocks)
    within_1, within_2 = _sums_within(rows_1, blocks_1), _sums_within(rows_2, blocks_2)
    between = _sums(rows_1, rows_2, blocks_1, blocks_2)

    def distances(kept: Tensor) -> Tensor:
        """Return the estimate from the blocks that each row of `kept` marks with ones."""
        n, m = kept @ blocks_1.sum(dim=0), kept @ blocks_2.sum(dim=0)
        over_1, over_2, over_both = (
            ((kept @ sums) * kept).sum(dim=1) for sums in (within_1, within_2, between)
        )
        return over_1 / (n * (n - 1)) + over_2 / (m * (m - 1)) - 2 * over_both / (n * m)

    everything = rows_1.new_ones(1, num_blocks)
    without_one = distances(everything - torch.eye(num_blocks).to(rows_1))
    variance = (num_blocks - 1) * without_one.var(correction=0)
    return KernelDistance(distances(everything)[0], variance.sqrt())


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
            f"num_subsets must be 1 or more and subset_size 2 or more, got {num_subsets} and "
            f"{subset_size}. Published figures use 100 subsets of 1,000."
        )
    rows_1, rows_2 = feature_pair(
        "features_1", features_1, "features_2", features_2, at_least=subset_size
    )
    generator = torch.Generator().manual_seed(seed)
    distances = torch.stack(
        [
            _distance(*(draw_rows(rows, subset_size, generator) for rows in (rows_1, rows_2)))
            for _ in range(num_subsets)
        ]
    )
    return KernelDistance(distances.mean(), distances.std(correction=0))


def _distance(x: Tensor, y: Tensor) -> Tensor:
    n, m, all_x, all_y = len(x), len(y), _blocks(x, 1), _blocks(y, 1)
    within = _sums_within(x, all_x) / (n * (n - 1)) + _sums_within(y, all_y) / (m * (m - 1))
    distance: Tensor = within - 2 * _sums(x, y, all_x, all_y) / (n * m)
    return distance.squeeze()


def _blocks(rows: Tensor, num_blocks: int) -> Tensor:
    """Return the block of each row, one-hot, `(n, blocks)`."""
    block = torch.arange(len(rows), device=rows.device) * num_blocks // len(rows)
    return one_hot(block, num_blocks).to(rows)


def _sums(x: Tensor, y: Tensor, blocks_x: Tensor, blocks_y: Tensor) -> Tensor:
    """Return sums of the kernel over the pairs of rows of each two blocks, `(blocks, blocks)`."""
    step = block_rows(len(y))
    parts = zip(x.split(step), blocks_x.split(step), strict=True)
    sums = [blocks.mT @ _kernel(part @ y.mT, x.shape[1]) @ blocks_y for part, blocks in parts]
    return torch.stack(sums).sum(dim=0)


def _sums_within(x: Tensor, blocks: Tensor) -> Tensor:
    """Return such sums within one set, without the pairs of a row with itself."""
    of_itself = _kernel(x.square().sum(dim=1), x.shape[1])
    return _sums(x, x, blocks, blocks) - (of_itself @ blocks).diag()


def _kernel(products: Tensor, dim: int) -> Tensor:
    return (products / dim + 1) ** 3
