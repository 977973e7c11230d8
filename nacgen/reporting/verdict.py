"""One sentence on paired log ratios, and what this number of pairs can and cannot show."""

import math
from collections.abc import Sequence
from statistics import fmean

from nacgen.reporting.paired import sign_flip_p_value, smallest_p_value, t_interval

LEVEL = 0.05


def verdict(
    arm_a: str, arm_b: str, log_ratios: Sequence[float], *, when: str, better: str = "lower"
) -> str:
    """What the pairs say of the second arm against the first, in one sentence.

    A difference is claimed only where the exact test and the interval both exclude zero; where
    pairs are too few for that, or the two disagree, the sentence says so instead.

    Args:
        arm_a: Name of the control.
        arm_b: Name of the arm compared with it.
        log_ratios: `log(b / a)` of each pair; at least one.
        when: The moment of training, `"at the end"` say.
        better: Which scores are better, `"lower"` or `"higher"`.

    Returns:
        The sentence.
    """
    pairs = len(log_ratios)
    counts = {
        "lower": sum(ratio < 0 for ratio in log_ratios),
        "higher": sum(ratio > 0 for ratio in log_ratios),
    }
    num_equal = pairs - sum(counts.values())
    side, other = sorted(counts, key=counts.__getitem__, reverse=True)
    quality = "better" if side == better else "worse"
    mean, interval = change(fmean(log_ratios)), t_interval(log_ratios)
    all_pairs = "the one paired seed" if pairs == 1 else f"all {pairs} paired seeds"
    if num_equal == pairs:
        return (
            f"In {all_pairs} {arm_b} and {arm_a} scored exactly the same {when}; the arms may not "
            "differ in anything that was trained."
        )
    if interval is None:
        return (
            f"In {all_pairs} {arm_b} scored {side} ({quality}) than {arm_a} {when} ({mean}); one "
            "pair gives neither an interval nor a test, so this is a single observation."
        )
    agree = counts[side] == pairs
    majority = all_pairs if agree else f"{counts[side]} of {pairs} paired seeds"
    head = f"In {majority} {arm_b} scored {side} ({quality}) than {arm_a} {when}"
    if counts[other]:
        head += f", in {counts[other]} {other}"
    if num_equal:
        head += f", in {num_equal} the same"
    figures = f"{mean} on average, 95 % interval {change(interval[0])} to {change(interval[1])}"
    return f"{head} ({figures}); {_conclusion(log_ratios, interval, agree)}."


def _conclusion(log_ratios: Sequence[float], interval: tuple[float, float], agree: bool) -> str:
    p_value, smallest = sign_flip_p_value(log_ratios), smallest_p_value(len(log_ratios))
    has_zero = interval[0] <= 0 <= interval[1]
    exact = f"the exact two-sided p-value is {p_value:.2g}"
    if smallest > LEVEL and agree:
        also = "the interval contains zero and " if has_zero else ""
        return (
            f"{also}the smallest two-sided p-value {len(log_ratios)} pairs can give is "
            f"{smallest:.2g}, so this is a consistent direction, not a significance claim"
        )
    if smallest > LEVEL:
        return "the seeds disagree, so no difference is shown"
    if p_value > LEVEL and has_zero:
        return f"{exact} and the interval contains zero, so no difference is shown"
    if p_value > LEVEL or has_zero:
        verb = "contains" if has_zero else "excludes"
        return f"{exact} but the interval {verb} zero, so no difference is claimed"
    return f"{exact} and the interval excludes zero"


def limits(num_pairs: int) -> str:
    """What this number of pairs can and cannot show, in a short paragraph.

    Args:
        num_pairs: Paired seeds, at least 1.

    Returns:
        Plain sentences.
    """
    if num_pairs == 1:
        return (
            "One pair shows what happened once, not how much of it is the seed's doing. An "
            "interval needs two pairs, and six are the fewest with which the exact two-sided test "
            "can reach 0.05."
        )
    smallest = smallest_p_value(num_pairs)
    can = f"{num_pairs} pairs can show a direction and a rough size."
    if smallest > LEVEL:
        test = (
            "They cannot show significance: the exact two-sided test cannot go below "
            f"{smallest:.2g} whatever the scores, and six pairs are the fewest with which it can "
            "reach 0.05."
        )
    else:
        test = f"The exact two-sided test can go down to {smallest:.2g}."
    return (
        f"{can} {test} The interval takes the log ratios for normally distributed, which so few "
        "values cannot confirm. Training seeds vary data order, latents and fresh weights; they "
        "say nothing about another pretraining of the encoder, another data set or another budget."
    )


def change(log_ratio: float) -> str:
    """A log ratio as a signed percentage, `-17.1 %` say, with a true minus sign."""
    percent = f"{100 * math.expm1(log_ratio):+.1f} %"
    return percent.replace("-", "\N{MINUS SIGN}")
