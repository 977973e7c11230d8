"""Statistics of two arms, pair by pair: endpoints of their runs, intervals and exact tests for a handful of seeds.

An endpoint is one number for each run: the score at a moment, its mean over training, or the images to a score.
Student 1908 (the interval), Fisher 1935, The Design of Experiments, section 21 (the exact test), Holm 1979
(several comparisons).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from scipy import special  # scipy.stats takes seconds to import

Curve = Mapping[int, float]
LEAST_FOR_INTERVAL = 3  # pairs; with two it says next to nothing: thousands of per cent


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """The scores of two arms under one protocol, pair by pair; the first arm is the control."""

    when: str  # "at the end", "at 20 %", "over all of training"
    images_seen: int
    total_images: int
    seeds: tuple[int, ...]
    scores_a: tuple[float, ...]
    scores_b: tuple[float, ...]
    protocol: Mapping[str, Any]
    level: float  # 1 - level of intervals contain the true mean

    @property
    def log_ratios(self) -> tuple[float, ...]:
        """`log(b / a)` of each pair; negative where the second arm scored lower."""
        return tuple(math.log(b / a) for a, b in zip(self.scores_a, self.scores_b, strict=True))

    @property
    def mean_log_ratio(self) -> float:
        """Mean of `log_ratios`, the quantity that is compared."""
        return fmean(self.log_ratios)

    @property
    def interval(self) -> tuple[float, float] | None:
        """t-interval of the mean log ratio, or None for fewer than three pairs."""
        return _interval(self.log_ratios, self.level)

    @cached_property  # 2^20 sums for 40 pairs
    def p_value(self) -> float:
        """Exact two-sided sign-flip p-value, not corrected for other comparisons."""
        return sign_flip_p_value(self.log_ratios)

    @property
    def smallest_p_value(self) -> float:
        """Smallest p-value that this number of pairs can give."""
        return smallest_p_value(len(self.seeds))

    @property
    def num_lower(self) -> int:
        """Number of pairs in which the second arm scored lower."""
        return sum(ratio < 0 for ratio in self.log_ratios)

    @property
    def num_higher(self) -> int:
        """Number of pairs in which the second arm scored higher."""
        return sum(ratio > 0 for ratio in self.log_ratios)

    def to_dict(self) -> dict[str, Any]:
        """Return scores and statistics, ready for JSON; the protocol is left out."""
        fields = ("when", "images_seen", "total_images", "seeds", "scores_a", "scores_b", "level")
        figures = ("log_ratios", "mean_log_ratio", "interval", "p_value", "smallest_p_value")
        return _plain(self, *fields, *figures, "num_lower", "num_higher")


@dataclass(frozen=True, kw_only=True)
class ImagesToScore:
    """The images that two arms needed to reach a score; runs that never reached it (None) are censored."""

    target: float
    total_images: int
    seeds: tuple[int, ...]
    images_a: tuple[int | None, ...]
    images_b: tuple[int | None, ...]
    level: float

    @property
    def num_sooner(self) -> int:
        """Number of pairs in which the second arm reached the score first."""
        return sum(b < a for a, b in self._times)

    @property
    def num_later(self) -> int:
        """Number of pairs in which the control reached the score first."""
        return sum(b > a for a, b in self._times)

    @property
    def _times(self) -> list[tuple[float, float]]:
        both = ((math.inf if t is None else t for t in x) for x in (self.images_a, self.images_b))
        return list(zip(*both, strict=True))

    @property
    def num_censored(self) -> int:
        """Number of runs, of both arms, that did not reach the score."""
        return [*self.images_a, *self.images_b].count(None)

    @property
    def p_value(self) -> float:
        """Exact two-sided p-value of the sign test, which needs only the order within each pair."""
        return sign_test_p_value(self.num_sooner, self.num_later)

    @property
    def log_ratios(self) -> tuple[float, ...] | None:
        """`log(b / a)` of each pair; None if a run is censored (biased mean) or had the score at 0 images."""
        if not all(0 < time < math.inf for pair in self._times for time in pair):
            return None
        return tuple(math.log(b / a) for a, b in self._times)

    @property
    def mean_log_ratio(self) -> float | None:
        """Mean of `log_ratios`, None without them."""
        return None if self.log_ratios is None else fmean(self.log_ratios)

    @property
    def interval(self) -> tuple[float, float] | None:
        """t-interval of the mean log ratio; None without log ratios or for fewer than three pairs."""
        return None if self.log_ratios is None else _interval(self.log_ratios, self.level)

    def to_dict(self) -> dict[str, Any]:
        """Return images and statistics, ready for JSON."""
        fields = ("target", "total_images", "seeds", "images_a", "images_b")
        counts = ("num_sooner", "num_later", "num_censored")
        return _plain(self, *fields, *counts, "mean_log_ratio", "interval", "p_value")


def _interval(log_ratios: Sequence[float], level: float) -> tuple[float, float] | None:
    too_few = len(log_ratios) < LEAST_FOR_INTERVAL
    return None if too_few else t_interval(log_ratios, 1 - level)


def _plain(endpoint: object, *names: str) -> dict[str, Any]:
    values = {name: getattr(endpoint, name) for name in names}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def images_to_score(curve: Curve, target: float, better: str) -> int | None:
    """Return the images seen at the first evaluation that reached a score, or None if none did."""
    sign = 1 if better == "lower" else -1
    rounding = 1e-12 * abs(target)  # a mean of equal scores may differ from them in the last bit
    reached = (seen for seen, value in curve.items() if sign * (value - target) <= rounding)
    return min(reached, default=None)


def mean_score(curve: Curve) -> float:
    """Compute the geometric mean over the images seen of a curve with two or more positive scores.

    By the trapezoidal rule; an arm that is always 10 % better has a mean that is 10 % better.
    """
    images = sorted(curve)
    logs = [math.log(curve[seen]) for seen in images]
    return math.exp(float(np.trapezoid(logs, images)) / (images[-1] - images[0]))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Compute Student's confidence interval of the mean of two values or more."""
    critical = float(special.stdtrit(len(values) - 1, (1 + confidence) / 2))
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - critical * error, mean + critical * error


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Compute the exact two-sided p-value of a mean difference, over all `2^K` patterns of signs.

    The sums of one half of the pairs are looked up in the sorted sums of the other half.
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
    tail = special.bdtr(min(num_first, num_second), num_first + num_second, 0.5)
    return min(1.0, 2 * float(tail))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number after Holm, so that all claims together hold the error rate."""
    adjusted, greatest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        greatest = max(greatest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = greatest
    return adjusted
