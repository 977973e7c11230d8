"""Linear probe: how well a linear classifier on frozen features does, with few labels or all.

The features are computed once and the classifier is fitted to convergence, in seconds. The protocol of
papers, stochastic gradient descent on augmented images, is `nacgen.probes.linear_sgd`.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from nacgen.errors import DataError
from nacgen.probes.labeled import check_features, check_labels, check_lengths, top_accuracies
from nacgen.system.randomness import generator

L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1)
L2_UNTUNED = 1e-2  # where no image can be spared for the choice


@dataclass(frozen=True)
class LinearResult:
    """What a linear classifier on frozen features does.

    Args:
        top_1: Share of test images classified correctly, 0 to 1.
        top_5: Share whose class is among the five most likely; None with five classes or fewer.
        label_fraction: Share of the training labels that was used.
        num_train: Training images used.
        protocol: All settings that change the figures.
    """

    top_1: float
    top_5: float | None
    label_fraction: float
    num_train: int
    protocol: dict[str, Any]


def linear_probe(
    train_features: Float[Tensor, "n d"],
    train_labels: Int64[Tensor, " n"],
    test_features: Float[Tensor, "m d"],
    test_labels: Int64[Tensor, " m"],
) -> float:
    """Test accuracy of logistic regression on standardised features.

    The L2 weight is the one of `L2_GRID` that does best on every fifth training image, held out for the
    choice; the classifier is then fitted to all of them, by L-BFGS from zero, so nothing is random.

    Args:
        train_features: Any finite numbers.
        train_labels: Classes from 0.
        test_features: From the same encoder.
        test_labels: Classes from 0.

    Returns:
        Share of test images classified correctly, 0 to 1.

    Raises:
        ValueError: Features are not finite, or there are fewer than ten training images.
    """
    check_features("train_features", train_features)
    check_features("test_features", test_features)
    x, x_test = _standardized(train_features, test_features)
    l2 = _choose_l2(x, train_labels)
    return _accuracy(_fit(x, train_labels, l2), x_test, test_labels)


def fit_linear(
    train_features: Float[Tensor, "n d"],
    train_labels: Shaped[Tensor, "..."] | None,
    test_features: Float[Tensor, "m d"],
    test_labels: Shaped[Tensor, "..."] | None,
    label_fraction: float = 1.0,
    seed: int = 0,
) -> LinearResult:
    """Fit and measure a linear classifier as `linear_probe` does, on a share of the training labels.

    The share is drawn within each class, so that classes keep their proportions. With a single image of
    some class none can be held out to choose the L2 weight, which then is `L2_UNTUNED`.

    Args:
        train_features: Any finite numbers.
        train_labels: Classes from 0, as a dataset holds them.
        test_features: From the same encoder.
        test_labels: Classes from 0.
        label_fraction: Share of each class's training images, above 0, at most 1; 0.01 and 0.1 are usual.
        seed: Of the draw.

    Returns:
        The figures.

    Raises:
        DataError: Labels are missing or several an image; a test class has no training images; a class
            would get no image.
        ValueError: Features are not finite or fit no labels, there are fewer than ten training images, or
            the share is out of range.

    Source:
        The shares of 1 % and 10 %: Chen et al. 2020, arXiv:2002.05709, section 6.
    """
    check_features("train_features", train_features)
    check_features("test_features", test_features)
    train_labels, test_labels, num_classes = check_labels(train_labels, test_labels)
    check_lengths("the training split", train_features, train_labels)
    check_lengths("the test split", test_features, test_labels)
    chosen = stratified_share(train_labels.cpu(), label_fraction, seed).to(train_labels.device)
    features, labels = train_features[chosen.to(train_features.device)], train_labels[chosen]
    x, x_test = _standardized(features, test_features)
    smallest_class = int(labels.bincount()[labels.unique()].min())
    l2 = _choose_l2(x, labels) if smallest_class > 1 else L2_UNTUNED
    scores = F.pad(x_test.double(), (0, 1), value=1.0) @ _fit(x, labels, l2)
    top_1, top_5 = top_accuracies(scores, test_labels)
    protocol = {
        "classifier": "logistic regression on standardised features, L-BFGS",
        "l2": l2,
        "l2_chosen_on": "every fifth training image" if smallest_class > 1 else "nothing, fixed",
        "l2_grid": list(L2_GRID),
        "label_fraction": label_fraction,
        "seed": seed,
        "num_train": len(labels),
        "num_test": len(test_labels),
        "num_classes": num_classes,
    }
    return LinearResult(top_1, top_5, label_fraction, len(labels), protocol)


def stratified_share(
    labels: Int64[Tensor, " n"], fraction: float, seed: int = 0
) -> Int64[Tensor, " k"]:
    """Indices of a random share of each class, rounded to whole images.

    Args:
        labels: Classes from 0.
        fraction: Above 0, at most 1; 1 gives all.
        seed: Of the draw.

    Returns:
        Indices in ascending order, the same for the same arguments.

    Raises:
        ValueError: The fraction is out of range.
        DataError: A class would get no image.
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            f"label_fraction must be above 0 and at most 1, got {fraction}. 0.01 is one percent."
        )
    draw, shares, empty = generator(seed, "label_share"), [], []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        size = int(fraction * len(members) + 0.5)
        if size == 0:
            empty.append(f"class {label} with {len(members)} images")
        shares.append(members[torch.randperm(len(members), generator=draw)[:size]])
    if empty:
        raise DataError(
            f"label_fraction must leave each class an image, but {fraction} leaves none of "
            f"{', '.join(empty[:5])}{' and others' if len(empty) > 5 else ''}. Raise it."
        )
    return torch.cat(shares).sort().values


def _standardized(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    if len(train) < 10:
        raise ValueError(f"a linear probe needs ten training images or more, got {len(train)}.")
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    return (train - mean) / std, (test - mean) / std


def _choose_l2(x: Tensor, labels: Tensor) -> float:
    """The weight of `L2_GRID` that does best on every fifth image."""
    held_out = torch.arange(len(x), device=x.device) % 5 == 4
    scores = [
        _accuracy(_fit(x[~held_out], labels[~held_out], weight), x[held_out], labels[held_out])
        for weight in L2_GRID
    ]
    return L2_GRID[max(range(len(scores)), key=scores.__getitem__)]


def _fit(x: Tensor, labels: Tensor, l2: float) -> Tensor:
    """Weights with the bias as last row, (d + 1, classes)."""
    x = F.pad(x.double(), (0, 1), value=1.0)  # (n, d) -> (n, d + 1)
    num_classes = int(labels.max()) + 1
    weights = torch.zeros(x.shape[1], num_classes, device=x.device, dtype=x.dtype)
    weights.requires_grad_()
    solver = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weights, labels) + l2 / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weights.detach()


def _accuracy(weights: Tensor, x: Tensor, labels: Tensor) -> float:
    logits = F.pad(x.double(), (0, 1), value=1.0) @ weights
    return float((logits.argmax(1) == labels).double().mean())
