"""Scores of features, transcribed from the papers pair by pair."""

import math

import torch
from torch import Tensor


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Eq. 3 of Gretton et al. 2012 with the cubic kernel of Bińkowski et al. 2018."""

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    between = sum(k(a, b) for a in x for b in y)
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)


def inception_score(logits: Tensor, num_splits: int) -> tuple[float, float]:
    """Salimans et al. 2016: the exponential of the mean divergence, over splits."""
    n = len(logits)
    scores = []
    for s in range(num_splits):
        p = logits[s * n // num_splits : (s + 1) * n // num_splits].double().softmax(1)
        divergences = (p * (p / p.mean(0)).log()).sum(1)
        scores.append(math.exp(divergences.mean()))
    mean = sum(scores) / num_splits
    return mean, math.sqrt(sum((score - mean) ** 2 for score in scores) / num_splits)


def precision_recall_density_coverage(
    real: Tensor, generated: Tensor, k: int
) -> tuple[float, float, float, float]:
    """Eqs. 1 to 7 of Naeem et al. 2020 by differences of rows, rims included."""

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a.double() - b.double()).square().sum().sqrt())

    def radii(rows: Tensor) -> list[float]:
        return [
            sorted(distance(a, b) for j, b in enumerate(rows) if j != i)[k - 1]
            for i, a in enumerate(rows)
        ]

    real_radii, generated_radii = radii(real), radii(generated)
    inside = torch.tensor(
        [
            [distance(x, y) <= radius for x, radius in zip(real, real_radii, strict=True)]
            for y in generated
        ]
    )
    recalled = torch.tensor(
        [
            any(distance(x, y) <= r for y, r in zip(generated, generated_radii, strict=True))
            for x in real
        ]
    )
    return (
        inside.any(1).double().mean().item(),
        recalled.double().mean().item(),
        inside.sum().item() / (k * len(generated)),
        inside.any(0).double().mean().item(),
    )
