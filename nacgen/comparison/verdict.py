"""The verdict on paired log ratios in one sentence, and the limits of so few pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from nacgen.comparison.paired import sign_flip_p_value, smallest_p_value, t_interval

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The paired log ratios and everything else that a claim depends on.

    Args:
        log_ratios: `log(b / a)` of each pair; at least one.
        level: Error rate of claims.
        num_comparisons: Number of arms compared with the control, this one included.
        adjusted_p_value: Exact p-value corrected for that number. None: that of a single comparison.
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
        """Exact two-sided p-value, corrected for the number of comparisons."""
        if self.adjusted_p_value is not None:
            return self.adjusted_p_value
        return sign_flip_p_value(self.log_ratios)

    @property
    def smallest_p_value(self) -> float:
        """Smallest p-value that this number of pairs can give, corrected likewise."""
        return min(1.0, self.num_comparisons * smallest_p_value(len(self.log_ratios)))

    @property
    def interval(self) -> tuple[float, float] | None:
        """t-interval of the mean log ratio."""
        return t_interval(self.log_ratios, 1 - self.level)

    @property
    def has_zero(self) -> bool:
        """True if the interval contains zero, or if there is none."""
        return self.interval is None or self.interval[0] <= 0 <= self.interval[1]

    def is_claim(self, better: str) -> bool:
        """Return True if the data show a difference: the exact test and the interval both exclude zero.

        Seeds with which the worse arm diverged would only support the claim. Seeds with which the better arm
        diverged could refute it, so there is no claim then.

        Args:
            better: Direction in which scores improve, `"lower"` or `"higher"`.
        """
        b_is_better = (fmean(self.log_ratios) < 0) == (better == "lower")
        fell = self.diverged_b if b_is_better else self.diverged_a
        return self.p_value <= self.level and not self.has_zero and not fell


def verdict(arm_a: str, arm_b: str, evidence: Evidence, *, better: str = "lower") -> str:
    """Say in one sentence how the second arm scored against the first.

    The sentence names the side of the mean and the number of pairs on that side. It claims a difference only
    where `Evidence.is_claim` holds, and otherwise gives the reason: too few pairs, a test and an interval that
    disagree, or a better arm that diverged.

    Args:
        arm_a: Name of the control.
        arm_b: Name of the arm compared with it.
        evidence: The pairs.
        better: Direction in which scores improve, `"lower"` or `"higher"`.
    """
    ratios, pairs = evidence.log_ratios, len(evidence.log_ratios)
    counts = {"lower": sum(r < 0 for r in ratios), "higher": sum(r > 0 for r in ratios)}
    num_equal = pairs - sum(counts.values())
    mean, interval = change(fmean(ratios)), evidence.interval
    side, other = ("lower", "higher") if fmean(ratios) < 0 else ("higher", "lower")
    quality = "better" if side == better else "worse"
    all_pairs = "the one paired seed" if pairs == 1 else f"all {pairs} paired seeds"
    fell = _diverged(arm_a, arm_b, evidence)
    if num_equal == pairs:
        return (
            f"In {all_pairs} {arm_b} and {arm_a} scored exactly the same at the end; the arms may not "
            f"differ in anything that was trained{fell}."
        )
    if interval is None:
        return (
            f"In {all_pairs} {arm_b} scored {side} ({quality}) than {arm_a} at the end ({mean}); one "
            f"pair gives neither an interval nor a test, so this is a single observation{fell}."
        )
    agree = counts[side] == pairs
    majority = all_pairs if agree else f"{counts[side]} of {pairs} paired seeds"
    head = f"In {majority} {arm_b} scored {side} ({quality}) than {arm_a} at the end"
    if counts[other]:
        head += f", in {counts[other]} {other}"
    if num_equal:
        head += f", in {num_equal} the same"
    low, high = map(change, interval)
    figures = f"{mean} on average, {100 * (1 - evidence.level):.4g} % interval {low} to {high}"
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
    """Say in a short paragraph what this number of pairs can show and what it cannot.

    Args:
        num_pairs: Number of paired seeds, at least 1.
        level: Error rate of claims.
        num_comparisons: Number of arms compared with the control.
    """
    fewest = next(k for k in range(1, 64) if num_comparisons * smallest_p_value(k) <= level)
    corrected = f", corrected for {num_comparisons} comparisons," if num_comparisons > 1 else ""
    test_of = f"the exact two-sided test{corrected}"
    if num_pairs == 1:
        return (
            "One pair shows what happened once, not how much of it the seed caused. An "
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
        f"{can} {test} The interval assumes normally distributed log ratios, which so few values "
        "cannot confirm. Training seeds vary data order, latents and new weights; they say nothing "
        "about another pretraining of the encoder, another data set or another budget."
    )


def _number(count: int) -> str:
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count - 1] if count <= len(words) else str(count)


def change(log_ratio: float) -> str:
    """Return a log ratio as a signed percentage with a true minus sign, for example `-17.1 %`."""
    percent = f"{100 * math.expm1(log_ratio):+.1f} %"
    return percent.replace("-", "\N{MINUS SIGN}")
