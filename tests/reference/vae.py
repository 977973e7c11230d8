"""Slow transcriptions of the likelihoods, one pixel at a time, in Python's floats."""

import math

STEP = 2 / 255


def bin_edges(value: int) -> tuple[float, float]:
    """The interval that a value of 0 to 255 stands for in [-1, 1]; black and white are open."""
    center = value / 127.5 - 1
    low = -math.inf if value == 0 else center - STEP / 2
    return low, math.inf if value == 255 else center + STEP / 2


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def logistic_cdf(x: float) -> float:
    return 0.0 if x == -math.inf else 1.0 if x == math.inf else 1 / (1 + math.exp(-x))


def gaussian_probability(value: int, mean: float, sigma: float) -> float:
    low, high = ((edge - mean) / sigma for edge in bin_edges(value))
    return normal_cdf(high) - normal_cdf(low)


def logistic_mixture_probability(
    pixel: list[int],
    weights: list[float],
    means: list[list[float]],
    log_scales: list[list[float]],
    coefficients: list[list[float]],
) -> float:
    """Of one RGB pixel, arXiv:1701.05517, equation 3; coefficients are alpha, beta, gamma."""
    r, g, _ = (value / 127.5 - 1 for value in pixel)
    total = 0.0
    for weight, mean, log_scale, (alpha, beta, gamma) in zip(
        weights, means, log_scales, coefficients, strict=True
    ):
        moved = [mean[0], mean[1] + alpha * r, mean[2] + beta * r + gamma * g]
        probability = weight
        for value, center, s in zip(pixel, moved, log_scale, strict=True):
            low, high = ((edge - center) / math.exp(s) for edge in bin_edges(value))
            probability *= logistic_cdf(high) - logistic_cdf(low)
        total += probability
    return total
