import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from nacgen.errors import DataError
from nacgen.probes import knn
from nacgen.probes.knn import knn_probe


def blobs(n: int, seed: int = 0, num_classes: int = 6) -> tuple[Tensor, Tensor]:
    centers = torch.randn(num_classes, 5, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % num_classes
    noise = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
    return centers[labels] + noise, labels


def voted_class(
    train: list[list[float]], labels: list[int], query: list[float], k: int, temperature: float
) -> list[int]:
    """Return classes by their votes, most first, one neighbor at a time."""

    def cosine(a: list[float], b: list[float]) -> float:
        product = sum(x * y for x, y in zip(a, b, strict=True))
        return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    nearest = sorted(
        ((cosine(row, query), label) for row, label in zip(train, labels, strict=True)),
        reverse=True,
    )[:k]
    votes = dict.fromkeys(range(max(labels) + 1), 0.0)
    for similarity, label in nearest:
        votes[label] += math.exp(similarity / temperature)
    return sorted(votes, key=lambda label: -votes[label])


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_it_equals_the_loop(temperature: float) -> None:
    (x, labels), (x_test, labels_test) = blobs(60), blobs(40, seed=1)
    results = knn_probe(x, labels, x_test, labels_test, (1, 5, 60), temperature)
    for result in results:
        ranked = [
            voted_class(x.tolist(), labels.tolist(), query, result.num_neighbors, temperature)
            for query in x_test.tolist()
        ]
        pairs = list(zip(ranked, labels_test.tolist(), strict=True))
        assert result.top_1 == pytest.approx(sum(r[0] == t for r, t in pairs) / 40)
        assert result.top_5 == pytest.approx(sum(t in r[:5] for r, t in pairs) / 40)
    assert [result.num_neighbors for result in results] == [1, 5, 60]


@pytest.mark.parametrize("k", [1, 7, 20])
def test_it_equals_scikit_learn(k: int) -> None:
    (x, labels), (x_test, labels_test) = blobs(300), blobs(500, seed=1)
    other = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp(-distances / 0.07)
    )
    other.fit(x.double().numpy(), labels.numpy())
    expected = other.score(x_test.double().numpy(), labels_test.numpy())
    (result,) = knn_probe(x, labels, x_test, labels_test, [k])
    assert result.top_1 == pytest.approx(expected)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = blobs(100), blobs(50, seed=1)
    whole = knn_probe(*train, *test, (5, 20))
    monkeypatch.setattr(knn, "block_rows", lambda keys: 7)
    assert knn_probe(*train, *test, (5, 20)) == whole


def test_only_directions_matter() -> None:
    (x, labels), test = blobs(100), blobs(50, seed=1)
    scales = torch.rand(100, 1, generator=torch.Generator().manual_seed(0)) * 1e20 + 1e-3
    assert knn_probe(x * scales, labels, *test, [10]) == knn_probe(x, labels, *test, [10])


def test_a_nearer_neighbor_outvotes_two_farther_ones() -> None:
    angles = torch.tensor([0.1, 1.2, 1.3])
    x = torch.stack([angles.cos(), angles.sin()], 1)
    test = torch.tensor([[1.0, 0.0]])
    labels = torch.tensor([1, 0, 0])
    (weighted,) = knn_probe(x, labels, test, torch.tensor([1]), [3])
    (counted,) = knn_probe(x, labels, test, torch.tensor([1]), [3], temperature=1e6)
    assert (weighted.top_1, counted.top_1) == (1.0, 0.0)


def test_a_tiny_temperature_leaves_the_nearest_neighbor() -> None:
    train, test = blobs(100), blobs(50, seed=1)
    coldest, nearest = knn_probe(*train, *test, (50, 1), temperature=1e-5)
    assert coldest.top_1 == nearest.top_1


def test_the_result_is_json_with_its_protocol() -> None:
    (result,) = knn_probe(*blobs(30, num_classes=3), *blobs(12, num_classes=3), [4])
    record = json.loads(json.dumps(asdict(result)))
    assert record["top_5"] is None
    assert record["protocol"] == {
        "similarity": "cosine",
        "num_neighbors": 4,
        "temperature": 0.07,
        "num_train": 30,
        "num_test": 12,
        "num_classes": 3,
    }


def test_what_cannot_be_probed_is_named() -> None:
    x, labels = blobs(30)
    with pytest.raises(DataError, match="test_labels must give each image's class, got None"):
        knn_probe(x, labels, x, None, [5])
