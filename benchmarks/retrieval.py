"""Retrieval: mean average precision of binary codes, and the nearest of them.

Codes of 64 bits and 10 classes. Average precision is its expected value over all orders of tied items, whose
sorted form ranks the gallery of each query and adds up the expected precision place by place. faiss searches its
flat binary index with as many threads.
"""

from unittest.mock import patch

import torch
from torch import Tensor

import page
from nacgen.functional import hamming
from nacgen.functional.hamming import Neighbors, nearest_codes, pack_codes
from nacgen.functional.hashing import distance_counts
from nacgen.functional.ranking import average_precision
from timing import Row, Size, agree, cost, in_turns, missing, peak_memory

CODE_DIM, NUM_CLASSES = 64, 10
NUM_NEIGHBORS = 10
Labeled = tuple[Tensor, Tensor]


def labeled_codes(n: int, seed: int) -> Labeled:
    """Codes, (n, k), that lie a little closer to those of their own class, and the classes, (n,)."""
    draw = torch.Generator().manual_seed(seed)
    centers = torch.rand(NUM_CLASSES, CODE_DIM, generator=torch.Generator().manual_seed(0)) < 0.5
    labels = torch.randint(NUM_CLASSES, (n,), generator=draw)
    flips = torch.rand(n, CODE_DIM, generator=draw) < 0.4
    return centers[labels] ^ flips, labels


def counted_form(queries: Labeled, gallery: Labeled) -> Tensor:
    """Average precision of each query, (q,)."""
    return average_precision(distance_counts(*queries, *gallery))


def sorted_form(queries: Labeled, gallery: Labeled) -> Tensor:
    """The same by sorting.

    Of `n` tied items after `N` others, `r` and `R` of them relevant, place `i` adds
    `r / n (1 + R + (i - 1) (r - 1) / (n - 1)) / (N + i)`.
    """
    distances = torch.stack([(gallery[0] != code).sum(dim=1) for code in queries[0]])
    values = []
    for row, label in zip(distances, queries[1], strict=True):
        ordered, order = row.sort()
        relevant = (gallery[1] == label)[order]
        _, group, size = ordered.unique_consecutive(return_inverse=True, return_counts=True)
        positives = torch.zeros(len(size)).double().index_add_(0, group, relevant.double())
        before, found = size.cumsum(0) - size, positives.cumsum(0) - positives
        n, r, rank = size[group], positives[group], torch.arange(1, len(row) + 1)
        place = rank - before[group]
        expected = 1 + found[group] + (place - 1) * (r - 1) / (n - 1).clamp(min=1)
        values.append((r / n * expected / rank).sum() / relevant.sum().clamp(min=1))
    return torch.stack(values)


def precision(size: Size) -> list[Row]:
    """Against the sorted form with some queries, then with all: seconds and memory."""
    num_queries, some, num_gallery = size.of(
        (50, 5, 500), (1000, 50, 50_000), (10_000, 100, 50_000)
    )
    queries, gallery = labeled_codes(num_queries, 1), labeled_codes(num_gallery, 2)
    few = (queries[0][:some], queries[1][:some])
    agreement = agree(
        sorted_form(few, gallery), counted_form(few, gallery), 1e-9, "average precisions"
    )
    what = f"mean average precision, {num_queries:,} x {num_gallery:,} codes of {CODE_DIM} bits"
    megabytes = peak_memory(lambda: counted_form(queries, gallery))
    seconds = [cost(lambda: counted_form(queries, gallery)).wall for _ in range(size.turns)]
    return [
        in_turns(
            f"average precision of {some} queries among {num_gallery:,}",
            "sorted form",
            lambda: sorted_form(few, gallery),
            lambda: counted_form(few, gallery),
            size.turns,
            agreement=agreement,
        ),
        Row(what=what, ours=seconds, at_most=size.of(None, 0.3, 3.0)),
        Row(what=f"{what}: memory", ours=[megabytes], unit="MB", at_most=300.0),
    ]


def nearest(size: Size) -> list[Row]:
    """Neighbors of each query, by faiss where it is installed, and by the bit counts of NumPy without it."""
    num_queries, num_gallery = size.of((5, 500), (1000, 50_000), (5000, 50_000))
    what = f"{NUM_NEIGHBORS} nearest of {num_gallery:,} codes for {num_queries:,} queries"
    peer = "faiss IndexBinaryFlat"
    if reason := missing("faiss-cpu"):
        return [Row(what=what, peer=peer, skipped=reason)]
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    queries, gallery = labeled_codes(num_queries, 1)[0], labeled_codes(num_gallery, 2)[0]
    index = faiss.IndexBinaryFlat(CODE_DIM)
    index.add(pack_codes(gallery).numpy())
    packed = pack_codes(queries).numpy()
    theirs = torch.from_numpy(index.search(packed, NUM_NEIGHBORS)[0])

    def search() -> Neighbors:
        return nearest_codes(queries, gallery, NUM_NEIGHBORS)

    def search_without() -> Neighbors:
        with patch.object(hamming, "_has_faiss", lambda: False):
            return search()

    return [
        in_turns(
            name,
            peer,
            lambda: index.search(packed, NUM_NEIGHBORS),
            ours,
            size.turns,
            agreement=agree(theirs, ours().distances, 0, "distances"),
            at_least=size.of(None, 1, 1),
        )
        for name, ours in ((what, search), (f"{what}, faiss not installed", search_without))
    ]


PARTS = {"precision": precision, "nearest": nearest}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("numpy", "faiss-cpu"))
