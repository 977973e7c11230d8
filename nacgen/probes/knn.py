"""Weighted k-nearest-neighbour classification of frozen features: nothing is trained.

Source:
    Wu et al. 2018, arXiv:1805.01978, section 3.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from nacgen.functional.contrastive import directions
from nacgen.probes.labeled import check_features, check_labels, check_lengths, top_accuracies

CHUNK = 1000  # test images whose similarities are held at once


@dataclass(frozen=True)
class KNNResult:
    """What a vote of the nearest training images does.

    Args:
        top_1: Share of test images classified correctly, 0 to 1.
        top_5: Share whose class is among the five with most votes; None with five classes or fewer.
        num_neighbors: Training images that vote on each test image.
        protocol: All settings that change the figures.
    """

    top_1: float
    top_5: float | None
    num_neighbors: int
    protocol: dict[str, Any]


def knn_probe(
    train_features: Float[Tensor, "n d"],
    train_labels: Shaped[Tensor, "..."] | None,
    test_features: Float[Tensor, "m d"],
    test_labels: Shaped[Tensor, "..."] | None,
    num_neighbors: Sequence[int] = (20, 200),
    temperature: float | None = 0.07,
) -> tuple[KNNResult, ...]:
    """Classify test images by the votes of the training images nearest to them in angle.

    A neighbour at cosine similarity `s` has `exp(s / temperature)` votes for its class. Among classes with
    equal votes the lowest is taken.

    Args:
        train_features: Any finite numbers; only directions count.
        train_labels: Classes from 0, as a dataset holds them.
        test_features: From the same encoder.
        test_labels: Classes from 0.
        num_neighbors: How many vote, each at most the training images; 20 and 200 are usual.
        temperature: Above zero; None gives every neighbour one vote.

    Returns:
        One result for each of `num_neighbors`.

    Raises:
        DataError: Labels are missing or several an image; a test class has no training images.
        ValueError: Features are not finite or do not fit; a number of neighbours or the temperature is
            out of range.
    """
    check_features("train_features", train_features)
    check_features("test_features", test_features)
    train_labels, test_labels, num_classes = check_labels(train_labels, test_labels)
    check_lengths("the training split", train_features, train_labels)
    check_lengths("the test split", test_features, test_labels)
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"train_features and test_features must have one width, got {train_features.shape[1]} and "
            f"{test_features.shape[1]}. Take both from one encoder."
        )
    for k in num_neighbors:
        if not 1 <= k <= len(train_features):
            raise ValueError(
                f"num_neighbors must lie between 1 and the {len(train_features)} training images, got {k}. "
                "Ask for fewer."
            )
    if not num_neighbors or (temperature is not None and not temperature > 0):
        raise ValueError(
            "num_neighbors must name one number or more and temperature be above zero or None, got "
            f"{tuple(num_neighbors)} and {temperature}. The usual are (20, 200) and 0.07."
        )
    keys = directions(train_features)
    nearest = [_nearest(chunk, keys, max(num_neighbors)) for chunk in test_features.split(CHUNK)]
    similarity, index = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    voted = train_labels.to(index.device)[index]  # (m, k)
    results = []
    for k in num_neighbors:
        votes = _votes(similarity[:, :k], voted[:, :k], num_classes, temperature)
        top_1, top_5 = top_accuracies(votes, test_labels)
        protocol = {
            "similarity": "cosine",
            "num_neighbors": k,
            "temperature": temperature,
            "num_train": len(train_labels),
            "num_test": len(test_labels),
            "num_classes": num_classes,
        }
        results.append(KNNResult(top_1, top_5, k, protocol))
    return tuple(results)


def _nearest(
    queries: Float[Tensor, "b d"], keys: Float[Tensor, "n d"], k: int
) -> tuple[Float[Tensor, "b k"], Int64[Tensor, "b k"]]:
    """Cosine similarity and index of the `k` nearest keys, nearest first."""
    similarity = directions(queries) @ keys.T  # (b, d), (n, d) -> (b, n)
    nearest = similarity.topk(k, dim=1)
    return nearest.values, nearest.indices


def _votes(
    similarity: Tensor, voted: Tensor, num_classes: int, temperature: float | None
) -> Float[Tensor, "m classes"]:
    """Votes for each class from the classes of the neighbours, (m, k) -> (m, classes)."""
    if temperature is None:
        weights = torch.ones_like(similarity, dtype=torch.float64)
    else:  # relative to the nearest neighbour, so that no vote overflows
        nearest = rearrange(similarity[:, 0], "m -> m 1")
        weights = ((similarity.double() - nearest) / temperature).exp()
    votes = weights.new_zeros(len(similarity), num_classes)
    return votes.scatter_add_(1, voted, weights)
