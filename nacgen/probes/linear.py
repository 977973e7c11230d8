"""Linear probe: how well a linear classifier on frozen features does."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

L2_GRID = (1e-4, 1e-3, 1e-2, 1e-1)


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
    for name, features in (("train_features", train_features), ("test_features", test_features)):
        if not features.isfinite().all():
            raise ValueError(
                f"{name} must be finite, but {int((~features.isfinite()).sum())} values are not. "
                "Was the encoder trained to the end?"
            )
    if len(train_features) < 10:
        raise ValueError(
            f"a linear probe needs ten training images or more, got {len(train_features)}."
        )
    mean, std = train_features.mean(0), train_features.std(0).clamp_min(1e-6)
    x, x_test = (train_features - mean) / std, (test_features - mean) / std
    held_out = torch.arange(len(x), device=x.device) % 5 == 4
    scores = [
        _accuracy(
            _fit(x[~held_out], train_labels[~held_out], weight), x[held_out], train_labels[held_out]
        )
        for weight in L2_GRID
    ]
    best = L2_GRID[max(range(len(scores)), key=scores.__getitem__)]
    return _accuracy(_fit(x, train_labels, best), x_test, test_labels)


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
