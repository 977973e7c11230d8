"""Weighted k-nearest-neighbor classification of frozen features: nothing is trained.

Source:
    Wu et al. 2018, arXiv:1805.01978, section 3.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nacgen.functional.contrastive import directions
from nacgen.functional.features import block_rows, products_with
from nacgen.probes.labeled import Accuracies, Labels, check_labeled, top_accuracies


@dataclass(frozen=True, kw_only=True)
class KNNResult(Accuracies):
    """Accuracies of a vote of the `num_neighbors` nearest training images."""

    num_neighbors: int


def knn_probe(
    train_features: Float[Tensor, "n d"],
    train_labels: Labels,
    test_features: Float[Tensor, "m d"],
    test_labels: Labels,
    num_neighbors: Sequence[int] = (20, 200),
    temperature: float = 0.07,
) -> tuple[KNNResult, ...]:
    """Classify test images by the votes of the training images nearest to them in angle.

    A neighbor at cosine similarity `s` has `exp(s / temperature)` votes for its class. Among classes with
    equal votes the lowest is taken.
    """
    train_labels, test_labels, num_classes = check_labeled(
        train_features, train_labels, test_features, test_labels
    )
    keys = directions(train_features)
    nearest = [
        products.topk(max(num_neighbors), dim=1)  # (b, n) -> (b, k)
        for _, products in products_with(directions(test_features), keys, block_rows(keys))
    ]
    similarity, index = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    voted = train_labels[index]  # (m, k)
    results = []
    for k in num_neighbors:
        # Relative to the nearest neighbor, so that no vote overflows.
        weights = ((similarity[:, :k].double() - similarity[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(weights), num_classes).scatter_add_(1, voted[:, :k], weights)
        top_1, top_5 = top_accuracies(votes, test_labels)
        protocol = {
            "similarity": "cosine",
            "num_neighbors": k,
            "temperature": temperature,
            "num_train": len(train_labels),
            "num_test": len(test_labels),
            "num_classes": num_classes,
        }
        results.append(KNNResult(top_1=top_1, top_5=top_5, num_neighbors=k, protocol=protocol))
    return tuple(results)
