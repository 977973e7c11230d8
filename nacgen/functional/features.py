"""Checks of features, and blocks and draws of their rows."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def feature_rows(name: str, features: Tensor, at_least: int = 2) -> Float64[Tensor, "n d"]:
    """Check features of any float type and convert them to float64, in which sums over samples are kept.

    The rows have no gradient. `name` is the features' name in messages, `at_least` the smallest number of rows.

    Raises:
        ValueError: If the features are not a finite float matrix, or have too few rows.

    Example:
        >>> feature_rows("features", torch.ones(2, 1)).dtype
        torch.float64
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"{name} must be float (n, d), one row a sample, got {features.dtype} {tuple(features.shape)}. Pool "
            "feature maps over their pixels, and reshape single values to (n, 1)."
        )
    if len(features) < at_least:
        raise ValueError(
            f"{name} must have {at_least} rows or more, got {len(features)}. Take more samples."
        )
    if not features.isfinite().all():
        raise ValueError(
            f"{name} must be finite, got NaN or infinity in {int((~features.isfinite()).any(dim=1).sum())} of "
            f"{len(features)} rows. Look at the images that they come from."
        )
    return features.detach().double()


def feature_pair(
    name_1: str, features_1: Tensor, name_2: str, features_2: Tensor, at_least: int = 2
) -> tuple[Float64[Tensor, "n d"], Float64[Tensor, "m d"]]:
    """Check two sets of features that are to be compared, and convert both to float64.

    Names, rows and errors are those of `feature_rows`. Both sets must have the same width.

    Example:
        >>> feature_pair("real", torch.ones(2, 4), "generated", torch.ones(3, 4))[1].shape
        torch.Size([3, 4])
    """
    rows_1 = feature_rows(name_1, features_1, at_least)
    rows_2 = feature_rows(name_2, features_2, at_least)
    if rows_1.shape[1] != rows_2.shape[1]:
        raise ValueError(
            f"{name_1} and {name_2} must have rows of one length, got {tuple(rows_1.shape)} and "
            f"{tuple(rows_2.shape)}. Compare features of one extractor."
        )
    return rows_1, rows_2


def block_rows(columns: Tensor) -> int:
    """Return how many rows with a number for each of some columns make a block: 8 MB of float64 on a CPU."""
    limit = 2**20 if columns.device.type == "cpu" else 2**24
    return max(1, limit // max(1, len(columns)))


def products_with(
    rows: Float[Tensor, "n d"], columns: Float[Tensor, "m d"], step: int
) -> Iterator[tuple[slice, Float[Tensor, "b m"]]]:
    """Yield inner products of some rows with all columns, without gradient, and the slice of the rows.

    All blocks lie in the same memory, and may be overwritten: new blocks would leave holes between what is kept of
    them, and so take the memory of all pairs.
    """
    block = columns.new_empty(min(step, len(rows)), len(columns))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        with torch.no_grad():
            products = torch.mm(rows[part], columns.mT, out=block[: part.stop - start])
        yield part, products


def draw_rows(rows: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw some rows without replacement, the same on every device."""
    return rows[torch.randperm(len(rows), generator=generator)[:size].to(rows.device)]
