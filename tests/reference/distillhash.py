"""DistillHash as loops over images and pairs, written from the paper."""

import math

Rows = list[list[float]]


def cosine_distance(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def half_gaussians(distances: Rows, num_bins: int) -> tuple[float, float, float]:
    """Centre of the fullest bin, and root mean square distance from it on either side."""
    pairs = [distances[i][j] for i in range(len(distances)) for j in range(i + 1, len(distances))]
    lowest, highest = min(pairs), max(pairs)
    width = (highest - lowest) / num_bins
    counts = [0] * num_bins
    for value in pairs:
        counts[min(int((value - lowest) / width), num_bins - 1)] += 1
    mode = lowest + (counts.index(max(counts)) + 0.5) * width
    left = [(value - mode) ** 2 for value in pairs if value <= mode]
    right = [(value - mode) ** 2 for value in pairs if value > mode]
    return mode, math.sqrt(sum(left) / len(left)), math.sqrt(sum(right) / len(right))


def posterior(a: list[float], b: list[float]) -> float:
    return 1 / (1 + math.exp(-sum(x * y for x, y in zip(a, b, strict=True)) / 2))


def distilled_label(i: int, j: int, posteriors: Rows, neighbors: list[list[int]]) -> int:
    nearby = [posteriors[a][b] for a in neighbors[i] for b in neighbors[j]]
    rho_minus, rho_plus = min(nearby), min(1 - p for p in nearby)
    if posteriors[i][j] > (1 + rho_minus) / 2:
        return 1
    if posteriors[i][j] < (1 - rho_plus) / 2:
        return -1
    return 0


def noisy_loss(outputs: Rows, labels: list[list[int]]) -> list[float]:
    values = []
    for a, row in zip(outputs, labels, strict=True):
        terms = [
            abs(s) * (sum(x * y for x, y in zip(a, b, strict=True)) / len(a) - s) ** 2
            for b, s in zip(outputs, row, strict=True)
        ]
        values.append(sum(terms) / len(terms))
    return values


def likelihood_loss(outputs: Rows, labels: list[list[int]]) -> list[float]:
    values = []
    for a, row in zip(outputs, labels, strict=True):
        terms = []
        for b, s in zip(outputs, row, strict=True):
            p = posterior(a, b)
            terms.append({1: -math.log(p), -1: -math.log(1 - p), 0: 0.0}[s])
        values.append(sum(terms) / len(terms))
    return values
