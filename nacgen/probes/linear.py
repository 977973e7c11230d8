"""Linear probe: logistic regression on frozen features, with all training labels or a fraction of them.

The features are computed once and the classifier is fitted to convergence, in seconds. The protocol of
papers, stochastic gradient descent on augmented images, is in `nacgen.probes.linear_sgd`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from nacgen.probes.labeled import Accuracies, Labels, check_finite, check_labeled, top_accuracies
from nacgen.system.randomness import generator

L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1)
L2_UNTUNED = 1e-2  # where no image can be spared for the choice


@dataclass(frozen=True, kw_only=True)
class LinearResult(Accuracies):
    """Accuracies of a linear classifier, and the fraction and number of training labels it was fitted to."""

    label_fraction: float
    num_train: int


def linear_probe(
    train_features: Float[Tensor, "n d"],
    train_labels: Int64[Tensor, " n"],
    test_features: Float[Tensor, "m d"],
    test_labels: Int64[Tensor, " m"],
) -> float:
    """Compute the test accuracy of logistic regression on standardized features.

    The L2 weight is the one of `L2_GRID` that does best on every fifth training image, held out for the
    choice. The classifier is then fitted to all of them by L-BFGS from zero, so nothing is random.

    Example:
        >>> labels = torch.arange(20) % 2
        >>> features = torch.stack([labels + 0.1 * torch.rand(20), torch.rand(20)], dim=1)
        >>> linear_probe(features, labels, features, labels)
        1.0
    """
    check_finite("train_features", train_features)
    check_finite("test_features", test_features)
    x, x_test = _standardized(train_features, test_features)
    return _accuracy(_fit(x, train_labels, _choose_l2(x, train_labels)), x_test, test_labels)


def fit_linear(
    train_features: Float[Tensor, "n d"],
    train_labels: Labels,
    test_features: Float[Tensor, "m d"],
    test_labels: Labels,
    label_fraction: float = 1.0,
    seed: int = 0,
) -> LinearResult:
    """Fit and measure a linear classifier as `linear_probe` does, on a fraction of the training labels.

    The fraction is drawn within each class, so that classes keep their proportions. Where some class has a
    single image, none can be held out to choose the L2 weight, which then is `L2_UNTUNED`.

    Source:
        Fractions of 1 % and 10 %: Chen et al. 2020, arXiv:2002.05709, section 6.
    """
    train_labels, test_labels, num_classes = check_labeled(
        train_features, train_labels, test_features, test_labels
    )
    chosen = stratified_subset(train_labels, label_fraction, seed)
    features, labels = train_features[chosen], train_labels[chosen]
    x, x_test = _standardized(features, test_features)
    smallest_class = int(labels.bincount()[labels.unique()].min())
    l2 = _choose_l2(x, labels) if smallest_class > 1 else L2_UNTUNED
    top_1, top_5 = top_accuracies(_with_ones(x_test) @ _fit(x, labels, l2), test_labels)
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
    return LinearResult(
        top_1=top_1,
        top_5=top_5,
        label_fraction=label_fraction,
        num_train=len(labels),
        protocol=protocol,
    )


def stratified_subset(
    labels: Int64[Tensor, " n"], fraction: float, seed: int = 0
) -> Int64[Tensor, " k"]:
    """Return indices of a random fraction of each class, rounded to whole images, in ascending order."""
    draw, chosen = generator(seed, "label_share"), []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        size = int(fraction * len(members) + 0.5)
        chosen.append(members[torch.randperm(len(members), generator=draw)[:size]])
    return torch.cat(chosen).sort().values


def _standardized(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    if len(train) < 10:
        raise ValueError(
            f"a linear probe needs ten training images or more, got {len(train)}. Use more labels."
        )
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    return (train - mean) / std, (test - mean) / std


def _choose_l2(x: Tensor, labels: Tensor) -> float:
    held_out = torch.arange(len(x), device=x.device) % 5 == 4
    scores = [
        _accuracy(_fit(x[~held_out], labels[~held_out], weight), x[held_out], labels[held_out])
        for weight in L2_GRID
    ]
    return L2_GRID[max(range(len(scores)), key=scores.__getitem__)]


def _fit(x: Tensor, labels: Tensor, l2: float) -> Tensor:
    """Return weights with the bias as last row, (d + 1, classes)."""
    x, num_classes = _with_ones(x), int(labels.max()) + 1
    weights = x.new_zeros(x.shape[1], num_classes).requires_grad_()
    solver = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weights, labels) + l2 / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weights.detach()


def _with_ones(x: Tensor) -> Tensor:
    return F.pad(x.double(), (0, 1), value=1.0)  # (n, d) -> (n, d + 1)


def _accuracy(weights: Tensor, x: Tensor, labels: Tensor) -> float:
    return float(((_with_ones(x) @ weights).argmax(1) == labels).double().mean())
