"""Quality of a ranking with ties: expected values over all orders of the tied items.

Items at one distance have no order. If a measure depends on it, its expected value over all orders, equally
likely, is given. It follows from the counts per distance; no order of the gallery or of a sort changes it.

Source:
    McSherry & Najork 2008, "Computing information retrieval performance measures efficiently in the presence
    of tied scores" (the expected values over ties).
"""

from typing import NamedTuple

import torch
from einops import reduce
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

CHUNK = 2**20  # float64 numbers held at a time where a group is cut


class DistanceCounts(NamedTuple):
    """The number of gallery items at each distance from each query, and of the relevant ones among them."""

    relevant: Int64[Tensor, "q d"]
    total: Int64[Tensor, "q d"]


class BallPrecision(NamedTuple):
    """Precision among the items of a ball around each query, 0 if the ball is empty."""

    precision: Float64[Tensor, " q"]
    is_empty: Bool[Tensor, " q"]


class PrecisionRecall(NamedTuple):
    """Precision and recall of all pairs up to each distance, from the smallest distance that occurs."""

    distances: Int64[Tensor, " d"]
    precision: Float64[Tensor, " d"]
    recall: Float64[Tensor, " d"]


def average_precision(counts: DistanceCounts, top: int | None = None) -> Float64[Tensor, " q"]:
    """Compute the average precision, as the expected value over all orders of tied items.

    Over the whole gallery it is the mean, over the relevant items, of the precision at their rank. Among `n`
    tied items after `N` others, position `i` holds a relevant item with probability `r / n`. Then
    `1 + R + (i - 1) (r - 1) / (n - 1)` relevant items have been seen on average, `R` of them among the `N`.

    With `top` it is the mean over the relevant items *among the first `top`*, the convention of papers on
    hashing; a division by all relevant items would give other numbers. If the cut goes through a group of
    ties, the mean is over all choices of its items, equally likely. Without relevant items the value is 0.

    Raises:
        ValueError: If `top` is below one.

    Example:
        >>> average_precision(DistanceCounts(torch.tensor([[1, 0]]), torch.tensor([[2, 2]])))
        tensor([0.7500], dtype=torch.float64)
    """
    _check_top(top)
    relevant, total = counts.relevant.double(), counts.total.double()
    before, relevant_before = _before(counts.total), _before(counts.relevant)
    num_items = int(counts.total[0].sum())
    ranks = torch.arange(1, num_items + 1, dtype=torch.float64, device=total.device)
    harmonic = torch.cat([ranks.new_zeros(1), (1 / ranks).cumsum(0)])  # H_0 to H_n
    sums = _precision_sum(relevant, total, relevant_before, before, harmonic)
    if top is None or top >= num_items:
        return sums.sum(1) / relevant.sum(1).clamp(min=1)

    whole = before + counts.total <= top
    sum_before = (sums * whole).sum(1, keepdim=True)
    cut = reduce(whole, "q d -> q 1", "sum").clamp(max=total.shape[1] - 1)  # first group beyond
    size, positives = total.gather(1, cut), relevant.gather(1, cut)
    before, relevant_before = before.gather(1, cut), relevant_before.gather(1, cut)
    kept = (top - before).clamp(min=0)
    most = int(torch.minimum(kept.double(), positives).max())
    # Numbers of relevant items among the kept.
    found = torch.arange(most + 1, dtype=torch.float64, device=total.device)
    values = []
    for rows in torch.arange(len(total), device=total.device).split(max(1, CHUNK // (most + 1))):
        n, r, m = size[rows], positives[rows], kept[rows].double()
        probability = _hypergeometric(found, n, r, m)  # (q, found)
        parts = _precision_sum(found, m, relevant_before[rows], before[rows], harmonic)
        ratio = (sum_before[rows] + parts) / (relevant_before[rows] + found).clamp(min=1)
        values.append((probability * ratio).sum(1))
    return torch.cat(values)


def ordered_average_precision(
    is_relevant: Bool[Tensor, "q n"], top: int | None = None
) -> Float64[Tensor, " q"]:
    """Compute the average precision of items in a given order, best first, with `top` as in `average_precision`.

    Raises:
        ValueError: If `top` is below one.

    Example:
        >>> ordered_average_precision(torch.tensor([[False, True]]))
        tensor([0.5000], dtype=torch.float64)
    """
    _check_top(top)
    row, position = is_relevant[:, :top].nonzero(as_tuple=True)  # row by row, in order
    found = torch.bincount(row, minlength=len(is_relevant))
    number = torch.arange(len(row), device=row.device) - _before(found)[row]  # 0, 1, ... each
    precision = (number + 1).double() / (position + 1)
    sums = precision.new_zeros(len(is_relevant)).index_add_(0, row, precision)
    return sums / found.clamp(min=1)


def precision_at(counts: DistanceCounts, num_items: int) -> Float64[Tensor, " q"]:
    """Compute the fraction of relevant items among the first `num_items`, as the expected value over ties.

    Raises:
        ValueError: If the gallery has fewer items.

    Example:
        >>> precision_at(DistanceCounts(torch.tensor([[1, 0]]), torch.tensor([[2, 2]])), 2)
        tensor([0.5000], dtype=torch.float64)
    """
    gallery_size = int(counts.total[0].sum())
    if not 1 <= num_items <= gallery_size:
        raise ValueError(
            f"num_items must lie between 1 and the size of the gallery, {gallery_size}, got {num_items}. "
            "Ask for fewer."
        )
    kept = (num_items - _before(counts.total)).clamp(min=0).minimum(counts.total)
    return (kept * counts.relevant / counts.total.clamp(min=1).double()).sum(1) / num_items


def precision_within(counts: DistanceCounts, radius: int) -> BallPrecision:
    """Compute the fraction of relevant items among those within a Hamming radius, 0 if there are none.

    Raises:
        ValueError: If the radius is below zero.

    Example:
        >>> precision_within(DistanceCounts(torch.tensor([[1, 0]]), torch.tensor([[2, 2]])), 0).precision
        tensor([0.5000], dtype=torch.float64)
    """
    if radius < 0:
        raise ValueError(f"radius must be zero or more, got {radius}. Two is customary.")
    relevant, total = (part[:, : radius + 1].sum(1) for part in counts)
    return BallPrecision(relevant / total.clamp(min=1).double(), total == 0)


def precision_recall(counts: DistanceCounts) -> PrecisionRecall:
    """Compute precision and recall of all pairs up to each distance, pooled over queries.

    Pooling, unlike the mean over queries, needs no value for queries that retrieve nothing.

    Raises:
        ValueError: If no query has a relevant item.

    Example:
        >>> precision_recall(DistanceCounts(torch.tensor([[1, 0]]), torch.tensor([[2, 2]]))).precision
        tensor([0.5000, 0.2500], dtype=torch.float64)
    """
    relevant, total = (part.sum(0).cumsum(0) for part in counts)
    if relevant[-1] == 0:
        raise ValueError(
            f"recall needs relevant items, but none of {len(counts.total)} queries has one. Check the dataset."
        )
    (distances,) = (total > 0).nonzero(as_tuple=True)
    relevant, total = relevant[distances].double(), total[distances]
    return PrecisionRecall(distances, relevant / total, relevant / relevant[-1])


def _precision_sum(
    relevant: Tensor, total: Tensor, relevant_before: Tensor, before: Tensor, harmonic: Tensor
) -> Tensor:
    """Return the expected sum of the precisions at the relevant items of one group of ties.

    With `s = (r - 1) / (n - 1)` it is `r / n sum_i (1 + R + (i - 1) s) / (N + i)`, by harmonic numbers.
    """
    slope = (relevant - 1) / (total - 1).clamp(min=1)
    span = harmonic[before + total.long()] - harmonic[before]
    constant = relevant_before + 1 - slope * (before + 1)
    return relevant / total.clamp(min=1) * (constant * span + slope * total)


def _hypergeometric(found: Tensor, size: Tensor, positives: Tensor, drawn: Tensor) -> Tensor:
    """Return the probability of `found` positives among `drawn` items of a group."""
    log_choices = _log_binomial(positives, found) + _log_binomial(size - positives, drawn - found)
    return (log_choices - _log_binomial(size, drawn)).exp()


def _log_binomial(n: Tensor, k: Tensor) -> Tensor:
    inside = (k >= 0) & (k <= n)
    k = torch.where(inside, k, torch.zeros_like(k))
    value = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.where(inside, value, -torch.inf)


def _before(counts: Tensor) -> Tensor:
    """Return the sum of all entries to the left."""
    return counts.cumsum(-1) - counts


def _check_top(top: int | None) -> None:
    if top is not None and top < 1:
        raise ValueError(f"top must be one item or more, got {top}. Leave it out to rank all.")
