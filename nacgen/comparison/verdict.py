"""The verdict on two arms in one sentence, and the limits of so few pairs."""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

from nacgen.comparison.statistics import LEAST_FOR_INTERVAL, PairedScores, smallest_p_value

LEVEL = 0.05
NO_INTERVAL = "too few pairs for an interval"
LARGEST_LOG = 700.0  # of a number that a float can hold


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The scores of two arms at the end of training and everything else that a claim depends on."""

    arm_a: str  # the control
    arm_b: str
    better: str  # direction in which scores improve, "lower" or "higher"
    end: PairedScores
    adjusted_p_value: float  # of the scores at the end, after Holm for all arms but the control
    num_comparisons: int = 1
    diverged_a: tuple[int, ...] = ()  # seeds left out because the control diverged
    diverged_b: tuple[int, ...] = ()

    @property
    def is_claim(self) -> bool:
        """True if test and interval exclude zero, and the better arm (a seed could refute it) never diverged."""
        b_is_better = (self.end.mean_log_ratio < 0) == (self.better == "lower")
        lost = self.diverged_b if b_is_better else self.diverged_a
        return self.adjusted_p_value <= self.end.level and not self._has_zero and not lost

    @property
    def verdict(self) -> str:
        """One sentence on how the second arm scored; without `is_claim` it says why nothing is claimed."""
        end, arm_a, arm_b, pairs = self.end, self.arm_a, self.arm_b, len(self.end.seeds)
        counts = {"lower": end.num_lower, "higher": end.num_higher}
        num_equal = pairs - sum(counts.values())
        mean = change(end.mean_log_ratio)
        side, other = ("lower", "higher") if end.mean_log_ratio < 0 else ("higher", "lower")
        quality = "better" if side == self.better else "worse"
        all_pairs = "the one paired seed" if pairs == 1 else f"all {pairs} paired seeds"
        if num_equal == pairs:
            return (
                f"In {all_pairs} {arm_b} and {arm_a} scored exactly the same at the end; the arms may not "
                f"differ in anything that was trained{self._diverged}."
            )
        if pairs == 1:
            return (
                f"In {all_pairs} {arm_b} scored {side} ({quality}) than {arm_a} at the end ({mean}); one "
                f"pair gives neither an interval nor a test, so this is a single observation{self._diverged}."
            )
        agree = counts[side] == pairs
        majority = all_pairs if agree else f"{counts[side]} of {pairs} paired seeds"
        head = f"In {majority} {arm_b} scored {side} ({quality}) than {arm_a} at the end"
        head += f", in {counts[other]} {other}" if counts[other] else ""
        head += f", in {num_equal} the same" if num_equal else ""
        level = "" if end.interval is None else f"{100 * (1 - end.level):.4g} % interval "
        figures = f"{mean} on average, {level}{interval_of(end)}"
        return f"{head} ({figures}); {self._conclusion(agree)}{self._diverged}."

    @property
    def _has_zero(self) -> bool:
        low, high = self.end.interval or (0.0, 0.0)
        return low <= 0 <= high

    @property
    def _diverged(self) -> str:
        both = (self.arm_a, self.diverged_a), (self.arm_b, self.diverged_b)
        parts = [f"{arm} diverged with {listed(seeds)}" for arm, seeds in both if seeds]
        return f"; left out: {' and '.join(parts)}" if parts else ""

    def _conclusion(self, agree: bool) -> str:
        level, p_value, has_zero = self.end.level, self.adjusted_p_value, self._has_zero
        smallest = min(1.0, self.num_comparisons * self.end.smallest_p_value)
        corrected = _corrected_for(self.num_comparisons)
        exact = f"the exact two-sided p-value{corrected} is {p_value:.2g}"
        if smallest > level and agree:
            is_wide = has_zero and self.end.interval is not None
            also = "the interval contains zero and " if is_wide else ""
            return (
                f"{also}the smallest two-sided p-value {len(self.end.seeds)} pairs can give{corrected} is "
                f"{smallest:.2g}, so this is a consistent direction, not a significance claim"
            )
        if smallest > level:
            return "the seeds disagree, so no difference is shown"
        if self.end.interval is None:
            return f"{exact}, but no difference is claimed without an interval"
        zero = f"the interval {'contains' if has_zero else 'excludes'} zero"
        if p_value > level and has_zero:
            return f"{exact} and {zero}, so no difference is shown"
        if p_value > level or has_zero:
            return f"{exact} but {zero}, so no difference is claimed"
        lost = ", but the better arm did not survive every seed, so no difference is claimed"
        return f"{exact} and {zero}{'' if self.is_claim else lost}"


def listed(seeds: Collection[int]) -> str:
    """Return seeds in words, `seed 1` or `seeds 1, 2`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def _corrected_for(num_comparisons: int) -> str:
    return f", corrected for {num_comparisons} comparisons," if num_comparisons > 1 else ""


def limits(num_pairs: int, level: float = LEVEL, num_comparisons: int = 1) -> str:
    """Say in a short paragraph what this number of pairs can show and what it cannot."""
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    fewest = next(k for k in itertools.count(1) if num_comparisons * smallest_p_value(k) <= level)
    number = words[fewest - 1] if fewest <= len(words) else str(fewest)
    test_of = f"the exact two-sided test{_corrected_for(num_comparisons)}"
    if num_pairs == 1:
        return (
            "One pair shows what happened once, not how much of it the seed caused. An interval needs three "
            f"pairs, and {number} are the fewest with which {test_of} can reach {level:g}."
        )
    smallest = min(1.0, num_comparisons * smallest_p_value(num_pairs))
    can = f"{num_pairs} pairs can show a direction and a rough size."
    if smallest > level:
        test = (
            f"They cannot show significance: {test_of} cannot go below {smallest:.2g} whatever the "
            f"scores, and {number} pairs are the fewest with which it can reach {level:g}."
        )
    else:
        test = f"T{test_of[1:]} can go down to {smallest:.2g}."
    interval = (
        "The interval assumes normally distributed log ratios, which so few values cannot confirm."
        if num_pairs >= LEAST_FOR_INTERVAL
        else "They are too few for an interval, which needs three."
    )
    return (
        f"{can} {test} {interval} Training seeds vary data order, latents and new weights; they say nothing "
        "about another pretraining of the encoder, another data set or another budget."
    )


def interval_of(point: PairedScores) -> str:
    """Return the interval of a mean change as percentages, `-17.1 % to -11.2 %`."""
    if point.interval is None:
        return NO_INTERVAL
    low, high = point.interval
    return f"{change(low)} to {change(high)}"


def change(log_ratio: float) -> str:
    """Return a log ratio as a signed percentage with a true minus sign, for example `-17.1 %`.

    A thousand times as much, or more, is written as a factor.
    """
    if log_ratio >= math.log(1_000):
        return f"\N{MULTIPLICATION SIGN} {math.exp(min(log_ratio, LARGEST_LOG)):.2g}"
    return f"{100 * math.expm1(log_ratio):+.1f} %".replace("-", "\N{MINUS SIGN}")
