"""Ranking a gallery by binary codes: relevant items at each distance, and ties broken by index.

Distances of `k` bits take `k + 1` values, so many gallery items tie. The quality of a ranking is then
determined by its counts per distance, see `nacgen.functional.ranking`; nothing has to be sorted.
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
    """Return True for gallery items that a query looks for: an equal class, or any common label.

    Args:
        query_labels: Classes `(q,)` from 0, or multi-hot labels `(q, c)`.
        gallery_labels: Labels of the gallery, of the same kind.

    Returns:
        Relevance of each gallery item to each query.

    Raises:
        ValueError: If the two differ in kind or number of labels, or if a class is below zero.

    Example:
        >>> is_relevant(torch.tensor([1]), torch.tensor([0, 1]))
        tensor([[False,  True]])
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
    """Count all and the relevant gallery items at each distance from each query.

    `"reference"` ranks like the authors of Neural Activation Coding, by the number of ones that two codes have in
    common; the "distance" is `k` minus that number. It ignores common zeros and serves for comparison only.

    Args:
        query_codes: One query per row.
        query_labels: Classes or multi-hot labels, see `is_relevant`.
        gallery_codes: One gallery item per row.
        gallery_labels: Labels of the gallery, of the same kind.
        ranking: `"hamming"` or `"reference"`.

    Returns:
        Counts at distances 0 to `k`.

    Raises:
        ValueError: If codes or labels are missing, of unequal length or of the wrong kind, or if the ranking is
            unknown.

    Example:
        >>> codes, labels = torch.tensor([[True], [False]]), torch.tensor([0, 0])
        >>> distance_counts(codes, labels, codes, labels).total.tolist()
        [[1, 1], [1, 1]]
    """
    _check_labeled(query_codes, query_labels, gallery_codes, gallery_labels)
    pairs = CodePairs(query_codes, gallery_codes, ranking)
    shape = (2, len(query_codes), query_codes.shape[1] + 1)
    counts = torch.empty(shape, dtype=torch.int64, device=query_codes.device)
    # Queries with equal labels have the same relevant items, so no pair has to be compared.
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
    """Compute the average precision of a ranking whose ties are broken by gallery index.

    It depends on the order of the gallery; `nacgen.functional.ranking.average_precision` does not.

    Args:
        query_codes: One query per row.
        query_labels: Classes or multi-hot labels, see `is_relevant`.
        gallery_codes: One gallery item per row.
        gallery_labels: Labels of the gallery, of the same kind.
        top: Number of first items that count; all by default.
        ranking: Distance of two codes, see `distance_counts`.

    Returns:
        One value per query between 0 and 1, see `nacgen.functional.ranking.ordered_average_precision`.

    Raises:
        ValueError: If `distance_counts` raises it, or if `top` is below one.

    Example:
        >>> codes, labels = torch.tensor([[True], [False]]), torch.tensor([0, 1])
        >>> stable_average_precision(codes, labels, codes, labels).tolist()
        [1.0, 1.0]
    """
    _check_labeled(query_codes, query_labels, gallery_codes, gallery_labels)

    def score(rows: slice, distances: Tensor) -> Tensor:
        relevant = _is_relevant(query_labels[rows], gallery_labels)
        return ordered_average_precision(relevant.gather(1, _stable_order(distances)), top)

    pairs = CodePairs(query_codes, gallery_codes, ranking)
    return torch.cat(pairs.each_block(score))


def _stable_order(distances: Tensor) -> Tensor:
    """Return indices along rows, nearest first, equal distances in their order."""
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
