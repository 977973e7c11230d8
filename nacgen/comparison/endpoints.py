"""What is read off the learning curves of two arms: scores at a moment, over all of training, and when.

An endpoint is one number for each run, and pairs of runs share their seed. Only the scores at the end
carry the verdict; the other endpoints describe, and are not tested for a claim.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from nacgen.comparison.paired import (
    sign_flip_p_value,
    sign_test_p_value,
    smallest_p_value,
    t_interval,
)

Curve = Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """The scores of two arms, pair by pair.

    Args:
        when: Which scores, in words: `"at the end"`, `"at 20 % of the budget"`, `"over all of training"`.
        images_seen: Images seen by every run at that moment; at the last of several.
        total_images: The whole budget.
        seeds: The pairs, in the order of the scores.
        scores_a: Scores of the first arm, the control.
        scores_b: Scores of the second.
        protocol: How all of them were measured.
        level: Intervals hold the true mean in a share of `1 - level` of comparisons.
    """

    when: str
    images_seen: int
    total_images: int
    seeds: tuple[int, ...]
    scores_a: tuple[float, ...]
    scores_b: tuple[float, ...]
    protocol: Mapping[str, Any]
    level: float

    @property
    def fraction(self) -> float:
        """Share of the budget spent, 0 to 1."""
        return self.images_seen / self.total_images

    @property
    def log_ratios(self) -> tuple[float, ...]:
        """`log(b / a)` of each pair; negative where the second arm scored lower."""
        return tuple(math.log(b / a) for a, b in zip(self.scores_a, self.scores_b, strict=True))

    @property
    def mean_log_ratio(self) -> float:
        """Mean of `log_ratios`."""
        return fmean(self.log_ratios)

    @property
    def interval(self) -> tuple[float, float] | None:
        """t-interval of the mean log ratio, or None for a single pair."""
        return t_interval(self.log_ratios, 1 - self.level)

    @property
    def p_value(self) -> float:
        """Exact two-sided sign-flip p-value, not corrected for other comparisons."""
        return sign_flip_p_value(self.log_ratios)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that this number of pairs can give."""
        return smallest_p_value(len(self.seeds))

    @property
    def num_lower(self) -> int:
        """Pairs in which the second arm scored lower."""
        return sum(ratio < 0 for ratio in self.log_ratios)

    @property
    def num_higher(self) -> int:
        """Pairs in which the second arm scored higher."""
        return sum(ratio > 0 for ratio in self.log_ratios)

    def to_dict(self) -> dict[str, Any]:
        """Scores and statistics, fit for JSON."""
        return {
            "when": self.when,
            "images_seen": self.images_seen,
            "total_images": self.total_images,
            "seeds": list(self.seeds),
            "scores_a": list(self.scores_a),
            "scores_b": list(self.scores_b),
            "log_ratios": list(self.log_ratios),
            "mean_log_ratio": self.mean_log_ratio,
            "level": self.level,
            "interval": None if self.interval is None else list(self.interval),
            "p_value": self.p_value,
            "smallest_p_value": self.smallest_p_value,
            "num_lower": self.num_lower,
            "num_higher": self.num_higher,
        }


@dataclass(frozen=True, kw_only=True)
class ImagesToScore:
    """How long two arms took to a score, pair by pair; runs that never reached it are censored.

    Args:
        target: The score.
        total_images: The whole budget; a censored run would have taken longer.
        seeds: The pairs.
        images_a: Images seen at the control's first evaluation that reached it; None: not within the budget.
        images_b: The same of the second arm.
        level: As in `PairedScores`.
    """

    target: float
    total_images: int
    seeds: tuple[int, ...]
    images_a: tuple[int | None, ...]
    images_b: tuple[int | None, ...]
    level: float

    @property
    def _orders(self) -> list[int]:
        """-1 where the second arm was sooner, 1 where it was later, 0 where nobody can tell."""
        never = self.total_images + 1
        pairs = zip(self.images_a, self.images_b, strict=True)
        times = [[never if time is None else time for time in pair] for pair in pairs]
        return [int(np.sign(b - a)) for a, b in times]

    @property
    def num_sooner(self) -> int:
        """Pairs in which the second arm reached the score sooner, or alone."""
        return self._orders.count(-1)

    @property
    def num_later(self) -> int:
        """Pairs in which the control did."""
        return self._orders.count(1)

    @property
    def num_censored(self) -> int:
        """Runs of both arms that did not reach the score."""
        return [*self.images_a, *self.images_b].count(None)

    @property
    def p_value(self) -> float:
        """Exact two-sided p-value of the sign test; it needs the order of each pair alone."""
        return sign_test_p_value(self.num_sooner, self.num_later)

    @property
    def log_ratios(self) -> tuple[float, ...] | None:
        """`log(b / a)` of each pair, or None where a run is censored: their mean would be biased.

        None, too, where a run was there before its first image.
        """
        if not all((*self.images_a, *self.images_b)):
            return None
        pairs = zip(self.images_a, self.images_b, strict=True)
        return tuple(math.log(b / a) for a, b in pairs if a is not None and b is not None)

    @property
    def mean_log_ratio(self) -> float | None:
        """Mean of `log_ratios`."""
        return None if self.log_ratios is None else fmean(self.log_ratios)

    @property
    def interval(self) -> tuple[float, float] | None:
        """t-interval of the mean log ratio; None where a run is censored, or for a single pair."""
        return None if self.log_ratios is None else t_interval(self.log_ratios, 1 - self.level)

    def to_dict(self) -> dict[str, Any]:
        """Images and statistics, fit for JSON."""
        return {
            "target": self.target,
            "total_images": self.total_images,
            "seeds": list(self.seeds),
            "images_a": list(self.images_a),
            "images_b": list(self.images_b),
            "num_sooner": self.num_sooner,
            "num_later": self.num_later,
            "num_censored": self.num_censored,
            "mean_log_ratio": self.mean_log_ratio,
            "interval": None if self.interval is None else list(self.interval),
            "p_value": self.p_value,
        }


def images_to_score(curve: Curve, target: float, better: str) -> int | None:
    """Images seen at the first evaluation whose score is as good as the target, or better.

    Args:
        curve: Scores by images seen.
        target: The score to reach.
        better: Which scores are better, `"lower"` or `"higher"`.

    Returns:
        The images, known to the distance of two evaluations; None where the score was not reached.
    """
    sign = 1 if better == "lower" else -1
    rounding = 1e-12 * abs(target)  # a mean of equal scores may differ from them in the last bit
    reached = (seen for seen, value in curve.items() if sign * (value - target) <= rounding)
    return min(reached, default=None)


def mean_score(curve: Curve) -> float:
    """The geometric mean of a curve over the images seen: its area, as a score.

    The area under the logarithm of the score, by trapezia, divided by the width and taken out of the
    logarithm; so an arm that is a tenth better all along has a mean that is a tenth better.

    Args:
        curve: Positive scores by images seen, two or more.

    Returns:
        The mean, between the least and the greatest score.

    Raises:
        ValueError: There are fewer than two scores.
    """
    if len(curve) < 2:
        raise ValueError(
            f"an area needs two scores or more, got {len(curve)}. Evaluate more often in training."
        )
    images = sorted(curve)
    logs = [math.log(curve[seen]) for seen in images]
    return math.exp(float(np.trapezoid(logs, images)) / (images[-1] - images[0]))
