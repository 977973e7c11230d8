import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from nacgen.data.datasets import load_dataset
from nacgen.errors import DataError
from nacgen.probes.linear import (
    L2_GRID,
    L2_UNTUNED,
    fit_linear,
    linear_probe,
    stratified_subset,
)


def blobs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clusters of three classes, so near to each other and so few that the L2 weight matters."""
    draw = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 30, generator=torch.Generator().manual_seed(99)) * 0.5
    labels = torch.arange(n) % 3
    noise = torch.randn(n, 30, generator=draw) * torch.logspace(-1, 1, 30)
    return centers[labels] + noise + 5, labels


def scikit_learns(x: Tensor, labels: Tensor, x_test: Tensor, labels_test: Tensor) -> float:
    """The same protocol: standardise, choose the weight on every fifth image, fit to all."""
    mean, std = x.mean(0), x.std(0)
    x, x_test = (x - mean) / std, (x_test - mean) / std

    def fit(rows: np.ndarray, l2: float) -> LogisticRegression:
        # scikit-learn's objective is C * sum of losses + |w|^2 / 2, intercept not penalized
        model = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-10, max_iter=2000)
        return model.fit(x.double().numpy()[rows], labels.numpy()[rows])

    every = np.arange(len(x))
    kept, held_out = every[every % 5 != 4], every[every % 5 == 4]
    scores = [
        fit(kept, l2).score(x.double().numpy()[held_out], labels.numpy()[held_out])
        for l2 in L2_GRID
    ]
    best = L2_GRID[int(np.argmax(scores))]
    return float(fit(every, best).score(x_test.double().numpy(), labels_test.numpy()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_accuracy_is_scikit_learns_at_the_same_l2(seed: int) -> None:
    train, test = blobs(90, seed), blobs(600, seed + 10)
    assert linear_probe(*train, *test) == pytest.approx(scikit_learns(*train, *test), abs=1e-9)


def test_pixels_of_digits_are_classified_as_by_scikit_learn() -> None:
    splits = []
    for split in ("train", "test"):
        dataset = load_dataset("digits", split)
        assert dataset.labels is not None
        pixels = dataset.read(torch.arange(0, len(dataset), 3))[:, 0, ::2, ::2].flatten(1).float()
        splits += [pixels[:, 16:48], dataset.labels[::3]]  # pixels of the middle rows all vary
    accuracy = linear_probe(*splits)
    assert accuracy == pytest.approx(scikit_learns(*splits), abs=1e-9)
    assert accuracy > 0.8


def test_a_constant_feature_changes_nothing() -> None:
    (x, labels), (x_test, labels_test) = blobs(90, 0), blobs(600, 10)
    wider, wider_test = (torch.cat([f, torch.full((len(f), 1), 3.0)], 1) for f in (x, x_test))
    with_constant = linear_probe(wider, labels, wider_test, labels_test)
    assert with_constant == linear_probe(x, labels, x_test, labels_test)


def test_scale_and_offset_of_features_change_nothing() -> None:
    (x, labels), (x_test, labels_test) = blobs(90, 0), blobs(600, 10)
    scale = torch.logspace(-2, 2, 30)
    moved = linear_probe(scale * x - 8, labels, scale * x_test - 8, labels_test)
    expected = linear_probe(x, labels, x_test, labels_test)
    assert moved == pytest.approx(expected, abs=2 / 600)  # float32 may move an image or two


def test_gradients_are_not_needed_around_it() -> None:
    train, test = blobs(90, 0), blobs(60, 10)
    with torch.no_grad():
        inside = linear_probe(*train, *test)
    assert inside == linear_probe(*train, *test)


def test_what_cannot_be_probed_is_named() -> None:
    x, labels = blobs(12, 0)
    with pytest.raises(ValueError, match="ten training images or more, got 9"):
        linear_probe(x[:9], labels[:9], x, labels)
    x[3, 2] = torch.inf
    with pytest.raises(ValueError, match=r"train_features must be finite, but 1 of \d+ values"):
        linear_probe(x, labels, x[4:], labels[4:])


def clusters(n: int, num_classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping clusters; every class in every run of `num_classes`."""
    centers = torch.randn(num_classes, 4, generator=torch.Generator().manual_seed(99)) * 1.5
    labels = torch.arange(n) % num_classes
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return centers[labels] + noise, labels


def digit_pixels() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    x, x_test = (d.images[:, 0, ::2, ::2].flatten(1).float() for d in (train, test))
    assert isinstance(train.labels, Tensor)
    assert isinstance(test.labels, Tensor)
    return x, train.labels, x_test, test.labels


def test_top_1_is_the_linear_probe() -> None:
    train, test = clusters(140), clusters(70, seed=1)
    result = fit_linear(*train, *test)
    assert result.top_1 == linear_probe(*train, *test)
    assert result.top_5 is not None
    assert 0.4 < result.top_1 < result.top_5 <= 1
    assert (result.num_train, result.label_fraction) == (140, 1.0)


def test_the_result_is_json_with_its_protocol() -> None:
    result = fit_linear(*clusters(140, 3), *clusters(30, 3, seed=1))
    record = json.loads(json.dumps(asdict(result)))
    assert record["top_5"] is None
    assert record["protocol"]["num_classes"] == 3
    assert record["protocol"]["l2"] in record["protocol"]["l2_grid"]
    assert record["protocol"]["l2_chosen_on"] == "every fifth training image"


def test_more_labels_classify_digits_better() -> None:
    x, labels, x_test, labels_test = digit_pixels()
    results = [
        fit_linear(x, labels, x_test, labels_test, fraction) for fraction in (0.01, 0.1, 1.0)
    ]
    assert [result.num_train for result in results] == [10, 145, 1442]
    accuracies = [result.top_1 for result in results]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] > 0.3
    assert accuracies[2] > 0.9
    one_an_image = results[0].protocol
    assert (one_an_image["l2"], one_an_image["l2_chosen_on"]) == (L2_UNTUNED, "nothing, fixed")


def test_a_fraction_keeps_proportions_and_depends_on_the_seed_alone() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)
    chosen = stratified_subset(labels, 0.1, seed=3)
    assert labels[chosen].bincount().tolist() == [10, 5, 1]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(chosen, stratified_subset(labels, 0.1, seed=3))
    assert not torch.equal(chosen, stratified_subset(labels, 0.1, seed=4))
    assert torch.equal(stratified_subset(labels, 1.0), torch.arange(160))


def test_what_cannot_be_fitted_is_named() -> None:
    x, labels = clusters(20, 2)
    with pytest.raises(DataError, match="train_labels must give each image's class, got None"):
        fit_linear(x, None, x, labels)
    with pytest.raises(ValueError, match="ten training images or more, got 2"):
        fit_linear(x, labels, x, labels, 0.1)
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"test_features must be finite, but 1 of \d+ values"):
        fit_linear(x[4:], labels[4:], x, labels)
