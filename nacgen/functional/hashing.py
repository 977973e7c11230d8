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

    Labels are classes `(n,)` from 0, or multi-hot `(n, c)`, of the same kind for both.

    Example:
        >>> is_relevant(torch.tensor([1]), torch.tensor([0, 1]))
        tensor([[False,  True]])
    """
    if query_labels.ndim == 1:
        return rearrange(query_labels, "q -> q 1") == gallery_labels
    return query_labels.float() @ gallery_labels.float().T > 0


def distance_counts(
    query_codes: Bool[Tensor, "q k"],
    query_labels: Labels,
    gallery_codes: Bool[Tensor, "n k"],
    gallery_labels: Labels,
    ranking: Ranking = "hamming",
) -> DistanceCounts:
    """Count all and the relevant gallery items at distances 0 to `k` from each query.

    `"reference"` ranks like the authors of Neural Activation Coding, by the number of ones that two codes have in
    common; the "distance" is `k` minus that number. It ignores common zeros and serves for comparison only.

    Raises:
        ValueError: If codes or labels are of unequal length or of the wrong kind, or the ranking is unknown.

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
        (relevant,) = is_relevant(labels[number : number + 1], gallery_labels)
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
    """Compute the average precision among the first `top` items, with ties broken by gallery index.

    It depends on the order of the gallery; `nacgen.functional.ranking.average_precision` does not. Arguments are
    those of `distance_counts`, and all items count by default.

    Raises:
        ValueError: If `distance_counts` raises it, or if `top` is below one.

    Example:
        >>> codes, labels = torch.tensor([[True], [False]]), torch.tensor([0, 1])
        >>> stable_average_precision(codes, labels, codes, labels).tolist()
        [1.0, 1.0]
    """
    _check_labeled(query_codes, query_labels, gallery_codes, gallery_labels)

    def score(rows: slice, distances: Tensor) -> Tensor:
        relevant = is_relevant(query_labels[rows], gallery_labels)
        return ordered_average_precision(relevant.gather(1, _stable_order(distances)), top)

    pairs = CodePairs(query_codes, gallery_codes, ranking)
    return torch.cat(pairs.each_block(score))


def _stable_order(distances: Tensor) -> Tensor:
    """Return indices along rows, nearest first, equal distances in their order."""
    if distances.device.type != "cpu":
        return distances.argsort(dim=1, stable=True)
    # NumPy sorts integers of 8 and 16 bits by radix, which is 14 times as fast as torch's sort
    return torch.from_numpy(distances.numpy().argsort(axis=1, kind="stable"))


def _check_labeled(
    query_codes: Tensor, query_labels: Tensor, gallery_codes: Tensor, gallery_labels: Tensor
) -> None:
    for name, codes, labels in (
        ("query", query_codes, query_labels),
        ("gallery", gallery_codes, gallery_labels),
    ):
        if labels is None:
            raise ValueError(
                f"retrieval needs labels, but {name}_labels is None. Use a dataset with labels."
            )
        is_class = labels.ndim == 1 and labels.dtype == torch.int64
        if not is_class and not (labels.ndim == 2 and labels.dtype == torch.bool):
            raise ValueError(
                f"{name}_labels must be classes, int64 (n,), or multi-hot, bool (n, c), got {labels.dtype} "
                f"{tuple(labels.shape)}. Convert them."
            )
        if is_class and (labels < 0).any():
            raise ValueError(
                f"{name}_labels must be classes from 0, got {int(labels.min())}. Leave unlabeled images out."
            )
        if len(codes) != len(labels):
            raise ValueError(
                f"each {name} code must have one label, got {len(codes)} codes and {len(labels)} labels. "
                "Take both from the same images."
            )
    if query_labels.shape[1:] != gallery_labels.shape[1:]:
        raise ValueError(
            "query_labels and gallery_labels must be of one kind, got shapes "
            f"{tuple(query_labels.shape)} and {tuple(gallery_labels.shape)}. Take both from one dataset."
        )
