"""One sentence on paired log ratios, and what this number of pairs can and cannot show."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from nacgen.comparison.paired import sign_flip_p_value, smallest_p_value, t_interval

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The pairs, and all that bears on what may be claimed from them.

    Args:
        log_ratios: `log(b / a)` of each pair; at least one.
        level: A claim may be wrong this often.
        num_comparisons: How many arms are compared with the control, this one included.
        adjusted_p_value: The exact p-value, corrected for them. Absent: that of a single comparison.
        diverged_a: Seeds left out because the control diverged.
        diverged_b: Seeds left out because the other arm diverged.
    """

    log_ratios: Sequence[float]
    level: float = LEVEL
    num_comparisons: int = 1
    adjusted_p_value: float | None = None
    diverged_a: Sequence[int] = ()
    diverged_b: Sequence[int] = ()

    @property
    def p_value(self) -> float:
        """The exact two-sided p-value, corrected for the number of comparisons."""
        if self.adjusted_p_value is not None:
            return self.adjusted_p_value
        return sign_flip_p_value(self.log_ratios)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that so many pairs can give, corrected likewise."""
        return min(1.0, self.num_comparisons * smallest_p_value(len(self.log_ratios)))

    @property
    def interval(self) -> tuple[float, float] | None:
        """t-interval of the mean log ratio."""
        return t_interval(self.log_ratios, 1 - self.level)

    @property
    def has_zero(self) -> bool:
        """Whether no difference is among what the interval holds."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]

    def is_claim(self, better: str) -> bool:
        """Whether the data show a difference.

        The exact test and the interval must both exclude zero. Seeds that the worse arm did not survive
        would have spoken against it; where the better arm diverged, the rest says nothing.

        Args:
            better: Which scores are better, `"lower"` or `"higher"`.
        """
        b_is_better = (fmean(self.log_ratios) < 0) == (better == "lower")
        fell = self.diverged_b if b_is_better else self.diverged_a
        return self.p_value <= self.level and not self.has_zero and not fell


def verdict(
    arm_a: str, arm_b: str, evidence: Evidence, *, when: str = "at the end", better: str = "lower"
) -> str:
    """What the pairs say of the second arm against the first, in one sentence.

    It tells of the side that the mean lies on, as intervals and tests do, and of how many pairs lie there.
    A difference is claimed only where `Evidence.is_claim` holds; where pairs are too few for that, or test
    and interval disagree, or the better arm diverged, the sentence says so instead.

    Args:
        arm_a: Name of the control.
        arm_b: Name of the arm compared with it.
        evidence: The pairs.
        when: The moment of training.
        better: Which scores are better, `"lower"` or `"higher"`.

    Returns:
        The sentence.
    """
    ratios, pairs = evidence.log_ratios, len(evidence.log_ratios)
    counts = {
        "lower": sum(ratio < 0 for ratio in ratios),
        "higher": sum(ratio > 0 for ratio in ratios),
    }
    num_equal = pairs - sum(counts.values())
    mean, interval = change(fmean(ratios)), evidence.interval
    side, other = ("lower", "higher") if fmean(ratios) < 0 else ("higher", "lower")
    quality = "better" if side == better else "worse"
    all_pairs = "the one paired seed" if pairs == 1 else f"all {pairs} paired seeds"
    fell = _diverged(arm_a, arm_b, evidence)
    if num_equal == pairs:
        return (
            f"In {all_pairs} {arm_b} and {arm_a} scored exactly the same {when}; the arms may not "
            f"differ in anything that was trained{fell}."
        )
    if interval is None:
        return (
            f"In {all_pairs} {arm_b} scored {side} ({quality}) than {arm_a} {when} ({mean}); one "
            f"pair gives neither an interval nor a test, so this is a single observation{fell}."
        )
    agree = counts[side] == pairs
    majority = all_pairs if agree else f"{counts[side]} of {pairs} paired seeds"
    head = f"In {majority} {arm_b} scored {side} ({quality}) than {arm_a} {when}"
    if counts[other]:
        head += f", in {counts[other]} {other}"
    if num_equal:
        head += f", in {num_equal} the same"
    figures = f"{mean} on average, {interval_text(interval, evidence.level)}"
    return f"{head} ({figures}); {_conclusion(evidence, better, agree)}{fell}."


def _conclusion(evidence: Evidence, better: str, agree: bool) -> str:
    pairs, smallest = len(evidence.log_ratios), evidence.smallest_p_value
    several = evidence.num_comparisons > 1
    corrected = f", corrected for {evidence.num_comparisons} comparisons," if several else ""
    exact = f"the exact two-sided p-value{corrected} is {evidence.p_value:.2g}"
    if smallest > evidence.level and agree:
        also = "the interval contains zero and " if evidence.has_zero else ""
        return (
            f"{also}the smallest two-sided p-value {pairs} pairs can give{corrected} is "
            f"{smallest:.2g}, so this is a consistent direction, not a significance claim"
        )
    if smallest > evidence.level:
        return "the seeds disagree, so no difference is shown"
    verb = "contains" if evidence.has_zero else "excludes"
    if evidence.p_value > evidence.level and evidence.has_zero:
        return f"{exact} and the interval contains zero, so no difference is shown"
    if evidence.p_value > evidence.level or evidence.has_zero:
        return f"{exact} but the interval {verb} zero, so no difference is claimed"
    claim = f"{exact} and the interval excludes zero"
    if evidence.is_claim(better):
        return claim
    return f"{claim}, but the better arm did not survive every seed, so no difference is claimed"


def _diverged(arm_a: str, arm_b: str, evidence: Evidence) -> str:
    parts = [
        f"{arm} diverged with seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"
        for arm, seeds in ((arm_a, evidence.diverged_a), (arm_b, evidence.diverged_b))
        if seeds
    ]
    return f"; left out: {' and '.join(parts)}" if parts else ""


def limits(num_pairs: int, level: float = LEVEL, num_comparisons: int = 1) -> str:
    """What this number of pairs can and cannot show, in a short paragraph.

    Args:
        num_pairs: Paired seeds, at least 1.
        level: A claim may be wrong this often.
        num_comparisons: Arms compared with the control.

    Returns:
        Plain sentences.
    """
    fewest = next(k for k in range(1, 64) if num_comparisons * smallest_p_value(k) <= level)
    test_of = "the exact two-sided test" + (
        f", corrected for {num_comparisons} comparisons," if num_comparisons > 1 else ""
    )
    if num_pairs == 1:
        return (
            "One pair shows what happened once, not how much of it is the seed's doing. An "
            f"interval needs two pairs, and {_number(fewest)} are the fewest with which {test_of} "
            f"can reach {level:g}."
        )
    smallest = min(1.0, num_comparisons * smallest_p_value(num_pairs))
    can = f"{num_pairs} pairs can show a direction and a rough size."
    if smallest > level:
        test = (
            f"They cannot show significance: {test_of} cannot go below {smallest:.2g} whatever the "
            f"scores, and {_number(fewest)} pairs are the fewest with which it can reach {level:g}."
        )
    else:
        test = f"T{test_of[1:]} can go down to {smallest:.2g}."
    return (
        f"{can} {test} The interval takes the log ratios for normally distributed, which so few "
        "values cannot confirm. Training seeds vary data order, latents and fresh weights; they "
        "say nothing about another pretraining of the encoder, another data set or another budget."
    )


def _number(count: int) -> str:
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count - 1] if count <= len(words) else str(count)


def interval_text(interval: Iterable[float], level: float) -> str:
    """An interval of log ratios in words, `95 % interval -26.8 % to -6.6 %` say."""
    low, high = map(change, interval)
    return f"{100 * (1 - level):.4g} % interval {low} to {high}"


def change(log_ratio: float) -> str:
    """A log ratio as a signed percentage, `-17.1 %` say, with a true minus sign."""
    percent = f"{100 * math.expm1(log_ratio):+.1f} %"
    return percent.replace("-", "\N{MINUS SIGN}")
