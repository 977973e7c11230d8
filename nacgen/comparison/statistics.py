"""Statistics of paired differences for a handful of seeds.

Student 1908 (the interval), Fisher 1935, The Design of Experiments, section 21 (the exact test), Holm
1979 (several comparisons).
"""

import math
from collections.abc import Sequence

import numpy as np

MAX_PAIRS = 40  # 2^20 sums for each half of the pairs


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Compute Student's confidence interval of a mean; None for fewer than two values."""
    from scipy import stats

    if len(values) < 2:
        return None
    critical = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - critical * error, mean + critical * error


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Compute the exact two-sided p-value of a mean difference, over all `2^K` patterns of signs.

    If the arms were exchangeable within each pair, all patterns would be equally likely. The p-value is the
    fraction of patterns whose mean is at least as far from zero as the observed one. The sums of one half of the
    pairs are looked up in the sorted sums of the other half, so that not every pattern is visited.
    """
    num_pairs = len(differences)
    observed = abs(math.fsum(differences))
    threshold = observed - 1e-12 * math.fsum(map(abs, differences))  # sums differ by rounding
    if threshold <= 0:
        return 1.0
    first = _signed_sums(differences[: num_pairs // 2])
    second = np.sort(_signed_sums(differences[num_pairs // 2 :]))
    below = np.searchsorted(second, threshold - first, side="left")
    return 2 * float(np.sum(len(second) - below)) * 0.5**num_pairs  # two equal tails


def _signed_sums(values: Sequence[float]) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def smallest_p_value(num_pairs: int) -> float:
    """Return the smallest two-sided sign-flip p-value that this number of pairs can give."""
    return 2 * 0.5**num_pairs


def sign_test_p_value(num_first: int, num_second: int) -> float:
    """Compute the exact two-sided p-value of the sign test (Dixon & Mood 1946) from the wins of both arms."""
    from scipy import stats

    decided = num_first + num_second
    return float(stats.binomtest(num_first, decided).pvalue) if decided else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number after Holm, so that all claims together hold the error rate."""
    adjusted, greatest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted
