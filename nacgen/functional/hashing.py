"""How well binary codes rank a gallery: relevant items at each distance, and ties by index.

Distances of `k` bits take `k + 1` values, so many gallery items tie. What a ranking is worth is then decided
by its counts per distance alone, see `nacgen.functional.ranking`; nothing has to be sorted.
"""

from typing import TypeAlias

import torch
from einops import rearrange
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from nacgen.functional.hamming import CodePairs, Ranking
from nacgen.functional.ranking import DistanceCounts, ordered_average_precision

Labels: TypeAlias = Int64[Tensor, " _"] | Bool[Tensor, "_ c"]  # one row an image


def is_relevant(query_labels: Labels, gallery_labels: Labels) -> Bool[Tensor, "q n"]:
    """Whether a gallery item is what a query looks for: an equal class, or any shared label.

    Args:
        query_labels: Classes `(q,)` from 0, or multi-hot `(q, c)`.
        gallery_labels: The same kind.

    Returns:
        True where it is.

    Raises:
        ValueError: The two are of different kinds or numbers of labels, or a class is below zero.
    """
    _check_labels(query_labels, gallery_labels)
    return _is_relevant(query_labels, gallery_labels)


def distance_counts(
    query_codes: Bool[Tensor, "q k"],
    query_labels: Labels,
    gallery_codes: Bool[Tensor, "n k"],
    gallery_labels: Labels,
    ranking: Ranking = "hamming",
) -> DistanceCounts:
    """How many gallery items, and how many relevant ones, each query has at each distance.

    `"reference"` ranks as the authors of Neural Activation Coding did, by the number of ones that two codes
    share; the "distance" is `k` less that number. It knows nothing of shared zeros, and is there for
    comparison only.

    Args:
        query_codes: One row a query.
        query_labels: Classes or multi-hot labels, see `is_relevant`.
        gallery_codes: One row an item.
        gallery_labels: The same kind.
        ranking: `"hamming"` or `"reference"`.

    Returns:
        Counts at distances 0 to `k`.

    Raises:
        ValueError: Codes or labels are missing, of unequal length or of the wrong kind, or the ranking is
            unknown.
    """
    _check_labeled(query_codes, query_labels, gallery_codes, gallery_labels)
    pairs = CodePairs(query_codes, gallery_codes, ranking)
    shape = (2, len(query_codes), query_codes.shape[1] + 1)
    counts = torch.empty(shape, dtype=torch.int64, device=query_codes.device)
    # queries with equal labels share what is relevant, so that no pair is looked at for it
    labels, group = torch.unique(query_labels, dim=0, return_inverse=True)
    for number in range(len(labels)):
        (rows,) = (group == number).nonzero(as_tuple=True)
        (relevant,) = _is_relevant(labels[number : number + 1], gallery_labels)
        for part, is_counted in zip(counts, (~relevant, relevant), strict=True):
            (items,) = is_counted.nonzero(as_tuple=True)
            part[rows] = pairs.histograms(rows, items)
    irrelevant, relevant = counts
    return DistanceCounts(relevant, irrelevant + relevant)


def stable_average_precision(
    query_codes: Bool[Tensor, "q k"],
    query_labels: Labels,
    gallery_codes: Bool[Tensor, "n k"],
    gallery_labels: Labels,
    top: int | None = None,
    ranking: Ranking = "hamming",
) -> Float64[Tensor, " q"]:
    """Average precision of the ranking in which equal distances are ordered by gallery index.

    It depends on the order of the gallery; `nacgen.functional.ranking.average_precision` does not.

    Args:
        query_codes: One row a query.
        query_labels: Classes or multi-hot labels, see `is_relevant`.
        gallery_codes: One row an item.
        gallery_labels: The same kind.
        top: Only so many first items count. Absent: all.
        ranking: As in `distance_counts`.

    Returns:
        0 to 1, as `nacgen.functional.ranking.ordered_average_precision`.

    Raises:
        ValueError: As `distance_counts`, or `top` is below one.
    """
    _check_labeled(query_codes, query_labels, gallery_codes, gallery_labels)

    def score(rows: slice, distances: Tensor) -> Tensor:
        relevant = _is_relevant(query_labels[rows], gallery_labels)
        return ordered_average_precision(relevant.gather(1, _stable_order(distances)), top)

    pairs = CodePairs(query_codes, gallery_codes, ranking)
    return torch.cat(pairs.each_block(score))


def _stable_order(distances: Tensor) -> Tensor:
    """Indices along rows, nearest first, equal distances in the order they came."""
    if distances.device.type != "cpu":
        return distances.argsort(dim=1, stable=True)
    # NumPy sorts integers of 8 and 16 bits by radix, which is 14 times as fast as torch's sort
    return torch.from_numpy(distances.numpy().argsort(axis=1, kind="stable"))


def _is_relevant(query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    if query_labels.ndim == 1:
        return rearrange(query_labels, "q -> q 1") == gallery_labels
    return query_labels.float() @ gallery_labels.float().T > 0


def _check_labels(query_labels: Tensor | None, gallery_labels: Tensor | None) -> None:
    if query_labels is None or gallery_labels is None:
        missing = "query_labels" if query_labels is None else "gallery_labels"
        raise ValueError(
            f"retrieval needs labels to tell what is relevant, but {missing} is None. Use a dataset with labels."
        )
    for name, labels in (("query_labels", query_labels), ("gallery_labels", gallery_labels)):
        is_class = labels.ndim == 1 and labels.dtype == torch.int64
        if not is_class and not (labels.ndim == 2 and labels.dtype == torch.bool):
            raise ValueError(
                f"{name} must be classes, int64 (n,), or multi-hot, bool (n, c), got {labels.dtype} "
                f"{tuple(labels.shape)}. Convert them."
            )
        if is_class and (labels < 0).any():
            raise ValueError(
                f"{name} must be classes from 0, got {int(labels.min())}, which usually marks images without "
                "a label. Leave those out."
            )
    if query_labels.shape[1:] != gallery_labels.shape[1:]:
        raise ValueError(
            "query_labels and gallery_labels must be of one kind, got shapes "
            f"{tuple(query_labels.shape)} and {tuple(gallery_labels.shape)}. Take both from one dataset."
        )


def _check_labeled(
    query_codes: Tensor, query_labels: Tensor, gallery_codes: Tensor, gallery_labels: Tensor
) -> None:
    _check_labels(query_labels, gallery_labels)
    for name, codes, labels in (
        ("query", query_codes, query_labels),
        ("gallery", gallery_codes, gallery_labels),
    ):
        if len(codes) != len(labels):
            raise ValueError(
                f"each {name} code must have one label, got {len(codes)} codes and {len(labels)} labels. "
                "Take both from the same images."
            )
