"""Statistics of paired differences, for the handful of seeds that a comparison can afford.

Student 1908 (the interval), Fisher 1935, The Design of Experiments, section 21 (the exact test), Holm
1979 (several comparisons).
"""

import math
from collections.abc import Sequence

import numpy as np

MAX_PAIRS = 40  # 2^20 sums for each half of the pairs


def student_t_critical(confidence: float, degrees_of_freedom: int) -> float:
    """The t with `P(|T| <= t) = confidence`, for Student's distribution.

    Args:
        confidence: Between 0 and 1, both excluded; 0.95 for a 95 % interval.
        degrees_of_freedom: At least 1.

    Returns:
        The two-sided critical value, the quantile at `(1 + confidence) / 2`.

    Raises:
        ValueError: An argument is out of range.
    """
    if not 0 < confidence < 1 or degrees_of_freedom < 1:
        raise ValueError(
            f"confidence must lie between 0 and 1 and degrees_of_freedom be at least 1, got "
            f"{confidence} and {degrees_of_freedom}. An interval needs two values or more."
        )
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _central_probability(middle, degrees_of_freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees_of_freedom) * math.tan(middle)


def _central_probability(angle: float, degrees_of_freedom: int) -> float:
    """`P(|T| <= sqrt(nu) tan(angle))` as its finite series of positive terms.

    Source:
        Abramowitz & Stegun 1964, equations 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees_of_freedom % 2
    term = cosine if odd else 1.0
    total = 0.0 if degrees_of_freedom == 1 else term
    for step in range(3 if odd else 2, degrees_of_freedom - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's confidence interval of a mean.

    Args:
        values: Independent and roughly normal, one for each pair.
        confidence: Share of such intervals that hold the true mean.

    Returns:
        Lower and upper end, or None for fewer than two values.
    """
    if len(values) < 2:
        return None
    half = student_t_critical(confidence, len(values) - 1) * float(
        np.std(values, ddof=1) / math.sqrt(len(values))
    )
    mean = float(np.mean(values))
    return mean - half, mean + half


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Exact two-sided p-value of a mean difference, over all `2^K` patterns of signs.

    Were the arms exchangeable within each pair, every pattern would be equally likely; the p-value
    is the share of patterns whose mean is at least as far from zero as the observed one. Not every
    pattern is visited: the sums of one half of the pairs are looked up in the sorted sums of the
    other.

    Args:
        differences: One for each pair.

    Returns:
        A multiple of `2 / 2^K`, at most 1.

    Raises:
        ValueError: There are no pairs, or more than 40.
    """
    num_pairs = len(differences)
    if not 1 <= num_pairs <= MAX_PAIRS:
        raise ValueError(
            f"the exact test takes 1 to {MAX_PAIRS} pairs, got {num_pairs}. Compare fewer seeds."
        )
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
    """The smallest two-sided sign-flip p-value that this number of pairs can give, `2 / 2^K`."""
    return 2 * 0.5**num_pairs


def sign_test_p_value(num_first: int, num_second: int) -> float:
    """Exact two-sided p-value of the sign test, for pairs of which only the order is known.

    Args:
        num_first: Pairs that the first arm won.
        num_second: Pairs that the second arm won; ties are left out of both.

    Returns:
        Probability of so uneven a split if each side were as likely to win; 1 where no pair is decided.

    Source:
        Dixon & Mood 1946, The statistical sign test.
    """
    decided, least = num_first + num_second, min(num_first, num_second)
    tail = sum(math.comb(decided, wins) for wins in range(least + 1))
    return min(1.0, tail * 0.5 ** (decided - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that all claims together are wrong at the stated rate.

    Args:
        p_values: One for each comparison.

    Returns:
        Adjusted p-values in the same order, never below the given ones.

    Source:
        Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted, greatest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted
