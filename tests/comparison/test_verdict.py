import math
from typing import Any

import pytest

from nacgen.comparison.statistics import PairedScores
from nacgen.comparison.verdict import Claim, change, limits


def claim(*log_ratios: float, better: str = "lower", level: float = 0.05, **options: Any) -> Claim:
    end = PairedScores(
        when="at the end",
        images_seen=9,
        total_images=9,
        seeds=tuple(range(len(log_ratios))),
        scores_a=(1.0,) * len(log_ratios),
        scores_b=tuple(map(math.exp, log_ratios)),
        protocol={},
        level=level,
    )
    options = {"adjusted_p_value": end.p_value, **options}
    return Claim(arm_a="random", arm_b="nac", better=better, end=end, **options)


def say(*log_ratios: float, **options: Any) -> str:
    return claim(*log_ratios, **options).verdict


def test_three_pairs_that_agree_are_a_direction_and_no_claim() -> None:
    ratios = math.log(11.6 / 14.0), math.log(11.8 / 13.6), math.log(11.8 / 15.0)
    assert say(*ratios).replace("\N{MINUS SIGN}", "-") == (
        "In all 3 paired seeds nac scored lower (better) than random at the end (-17.3 % on "
        "average, 95 % interval -26.8 % to -6.6 %); the smallest two-sided p-value 3 pairs can "
        "give is 0.25, so this is a consistent direction, not a significance claim."
    )


def test_agreement_with_a_wide_interval_says_that_it_contains_zero() -> None:
    assert "; the interval contains zero and the smallest two-sided" in say(-0.01, -0.4, -0.02)


def test_pairs_that_disagree_show_no_difference() -> None:
    text = say(-0.2, 0.1, -0.15)
    assert text.startswith(
        "In 2 of 3 paired seeds nac scored lower (better) than random at the end"
    )
    assert ", in 1 higher (" in text
    assert text.endswith("; the seeds disagree, so no difference is shown.")


def test_a_claim_tells_of_the_side_of_the_mean_where_most_pairs_lie_on_the_other() -> None:
    found = claim(*[-0.001] * 8, 0.5, 0.52, 0.48, 0.51, 0.49, 0.5)
    assert found.is_claim
    text = found.verdict
    assert text.startswith("In 6 of 14 paired seeds nac scored higher (worse) than random")
    assert ", in 8 lower (+" in text


def test_equal_scores_are_counted_as_such() -> None:
    assert ", in 1 the same (" in say(-0.2, 0.0, -0.15)


def test_one_pair_is_a_single_observation() -> None:
    text = say(-0.2)
    assert text == (
        "In the one paired seed nac scored lower (better) than random at the end "
        "(\N{MINUS SIGN}18.1 %); one pair gives neither an interval nor a test, so this is a "
        "single observation."
    )


def test_identical_scores_cast_doubt_on_the_arms() -> None:
    assert say(0.0, 0.0, 0.0) == (
        "In all 3 paired seeds nac and random scored exactly the same at the end; the arms may not "
        "differ in anything that was trained."
    )


def test_eight_pairs_that_agree_may_exclude_zero() -> None:
    text = say(*[-0.2 - 0.01 * i for i in range(8)])
    assert text.endswith("; the exact two-sided p-value is 0.0078 and the interval excludes zero.")


def test_a_null_result_of_eight_pairs_prints_as_one() -> None:
    text = say(0.1, -0.12, 0.05, -0.02, 0.08, -0.1, 0.01, -0.03)
    assert text.endswith("and the interval contains zero, so no difference is shown.")


def test_where_test_and_interval_part_nothing_is_claimed() -> None:
    text = say(-0.001, -0.001, -0.001, -0.001, -0.001, -0.9)  # one outlier widens the interval
    assert text.endswith("0.031 but the interval contains zero, so no difference is claimed.")


def test_higher_scores_are_better_where_the_metric_says_so() -> None:
    assert "scored higher (better)" in say(0.2, 0.3, better="higher")
    assert "scored lower (worse)" in say(-0.2, -0.3, better="higher")
    assert "scored higher (worse)" in say(0.2, 0.3)


def test_no_small_number_of_pairs_is_ever_called_significant() -> None:
    for num_pairs in range(1, 6):
        for scale in (0.01, 1.0):
            text = say(*[scale * (1 + 1e-6 * i) for i in range(num_pairs)])
            assert "excludes zero." not in text, text


@pytest.mark.parametrize(
    ("num_pairs", "words"),
    [
        (1, "An interval needs three pairs"),
        (3, "cannot go below 0.25 whatever the scores, and six pairs are the fewest"),
        (5, "cannot go below 0.062"),
        (6, "The exact two-sided test can go down to 0.031."),
    ],
)
def test_limits_depend_on_the_number_of_pairs(num_pairs: int, words: str) -> None:
    assert words in limits(num_pairs)


CLEAR = [-0.2 - 0.01 * i for i in range(8)]


def test_a_correction_can_take_a_claim_away() -> None:
    assert say(*CLEAR, num_comparisons=3, adjusted_p_value=0.0234).endswith(
        "; the exact two-sided p-value, corrected for 3 comparisons, is 0.023 and the interval "
        "excludes zero."
    )
    assert say(*CLEAR, num_comparisons=9, adjusted_p_value=0.07).endswith(
        "; the smallest two-sided p-value 8 pairs can give, corrected for 9 comparisons, is 0.07, so "
        "this is a consistent direction, not a significance claim."
    )


def test_the_arm_that_diverged_wins_nothing() -> None:
    assert say(*CLEAR, diverged_b=(9,)).endswith(
        "excludes zero, but the better arm did not survive every seed, so no difference is claimed; "
        "left out: nac diverged with seed 9."
    )
    assert say(*CLEAR, diverged_a=(9, 8)).endswith(
        "and the interval excludes zero; left out: random diverged with seeds 8, 9."
    )
    assert not claim(*CLEAR, diverged_b=(9,)).is_claim
    # Where higher is better the control is the better arm, and it survived.
    assert claim(*CLEAR, better="higher", diverged_b=(9,)).is_claim
    assert claim(*CLEAR).is_claim


def test_a_stricter_level_needs_more() -> None:
    assert "not a significance claim" in say(*CLEAR, level=0.005)
    assert "99.5 % interval" in say(*CLEAR, level=0.005)


def test_limits_count_the_comparisons() -> None:
    text = limits(6, num_comparisons=2)
    assert "corrected for 2 comparisons, cannot go below 0.062" in text
    assert "seven pairs are the fewest with which it can reach 0.05" in text
    assert "can go down to 0.031." in limits(7, num_comparisons=2)
    assert "998 pairs are the fewest" in limits(3, level=1e-300)
    assert "11 pairs are the fewest with which it can reach 0.001" in limits(3, level=0.001)


def test_change_is_a_signed_percentage() -> None:
    assert change(math.log(1.1)) == "+10.0 %"
    assert change(math.log(0.75)) == "\N{MINUS SIGN}25.0 %"


def test_two_pairs_are_too_few_for_an_interval() -> None:
    text = say(-0.1, -0.5)
    assert "(\N{MINUS SIGN}25.9 % on average, too few pairs for an interval)" in text
    assert "interval contains" not in text
    assert "They are too few for an interval, which needs three." in limits(2)
    assert say(-0.1, -0.5, level=0.6).endswith(
        "0.5, but no difference is claimed without an interval."
    )


def test_a_thousandfold_change_is_a_factor_of_few_digits() -> None:
    assert change(math.log(25_000)) == "\N{MULTIPLICATION SIGN} 2.5e+04"
    assert len(change(5_000.0)) < 12
    assert change(math.log(900)) == "+89900.0 %"
