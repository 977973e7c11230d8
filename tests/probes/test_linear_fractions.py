"""`fit_linear`: richer results than `linear_probe`, and shares of the labels."""

import json
from dataclasses import asdict

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from nacgen.data.datasets import load_dataset
from nacgen.errors import DataError
from nacgen.probes.linear import L2_UNTUNED, fit_linear, linear_probe, stratified_share


def blobs(n: int, num_classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
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
    train, test = blobs(140), blobs(70, seed=1)
    result = fit_linear(*train, *test)
    assert result.top_1 == linear_probe(*train, *test)
    assert result.top_5 is not None
    assert 0.4 < result.top_1 < result.top_5 <= 1
    assert (result.num_train, result.label_fraction) == (140, 1.0)


def test_it_equals_scikit_learn_at_the_chosen_weight() -> None:
    (x, labels), (x_test, labels_test) = blobs(140), blobs(700, seed=1)
    result = fit_linear(x, labels, x_test, labels_test)
    mean, std = x.mean(0), x.std(0)
    other = LogisticRegression(C=1 / (result.protocol["l2"] * len(x)), tol=1e-10, max_iter=1000)
    other.fit(((x - mean) / std).double().numpy(), labels.numpy())
    expected = other.score(((x_test - mean) / std).double().numpy(), labels_test.numpy())
    assert result.top_1 == pytest.approx(expected, abs=2e-3)


def test_the_result_is_json_with_its_protocol() -> None:
    result = fit_linear(*blobs(140, 3), *blobs(30, 3, seed=1))
    record = json.loads(json.dumps(asdict(result)))
    assert record["top_5"] is None
    assert record["protocol"]["num_classes"] == 3
    assert record["protocol"]["l2"] in record["protocol"]["l2_grid"]
    assert record["protocol"]["l2_chosen_on"] == "every fifth training image"


def test_more_labels_classify_digits_better() -> None:
    x, labels, x_test, labels_test = digit_pixels()
    results = [
        fit_linear(x, labels, x_test, labels_test, processes) for processes in (0.01, 0.1, 1.0)
    ]
    assert [result.num_train for result in results] == [10, 145, 1442]
    accuracies = [result.top_1 for result in results]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] > 0.3
    assert accuracies[2] > 0.9
    one_an_image = results[0].protocol
    assert (one_an_image["l2"], one_an_image["l2_chosen_on"]) == (L2_UNTUNED, "nothing, fixed")


def test_a_share_keeps_proportions_and_depends_on_the_seed_alone() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)
    chosen = stratified_share(labels, 0.1, seed=3)
    assert labels[chosen].bincount().tolist() == [10, 5, 1]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(chosen, stratified_share(labels, 0.1, seed=3))
    assert not torch.equal(chosen, stratified_share(labels, 0.1, seed=4))
    assert torch.equal(stratified_share(labels, 1.0), torch.arange(160))


def test_a_class_that_would_get_no_image_is_named() -> None:
    labels = torch.tensor([0] * 100 + [3] * 40)
    with pytest.raises(DataError, match=r"but 0.01 leaves none of class 3 with 40 images"):
        stratified_share(labels, 0.01)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"above 0 and at most 1, got {fraction}"):
        stratified_share(torch.zeros(10, dtype=torch.int64), fraction)


def test_what_cannot_be_probed_is_named() -> None:
    x, labels = blobs(20, 2)
    with pytest.raises(DataError, match="train_labels must give each image's class, got None"):
        fit_linear(x, None, x, labels)
    with pytest.raises(DataError, match=r"multi-hot labels \(20, 3\)"):
        fit_linear(x, labels, x, torch.ones(20, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"the test split .* got 20 features and 19 labels"):
        fit_linear(x, labels, x, labels[1:])
    with pytest.raises(ValueError, match="ten training images or more, got 2"):
        fit_linear(x, labels, x, labels, 0.1)
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="test_features must be finite, but 1 values are not"):
        fit_linear(x[4:], labels[4:], x, labels)
