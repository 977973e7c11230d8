import math
from itertools import product

import numpy as np
import pytest

from nacgen.comparison.statistics import (
    ImagesToScore,
    holm,
    images_to_score,
    mean_score,
    sign_flip_p_value,
    sign_test_p_value,
    smallest_p_value,
    t_interval,
)


def test_interval_of_two_values_in_closed_form() -> None:
    half = math.tan(0.95 * math.pi / 2)  # one degree of freedom is Cauchy's distribution
    assert t_interval([-1.0, 1.0]) == pytest.approx((-half, half))


def brute_force_p_value(differences: list[float]) -> float:
    """Every pattern of signs, one after another."""
    observed = abs(sum(differences))
    signs = product((1, -1), repeat=len(differences))
    means = [
        abs(sum(s * d for s, d in zip(pattern, differences, strict=True))) for pattern in signs
    ]
    return float(np.mean([mean >= observed - 1e-9 for mean in means]))


@pytest.mark.parametrize("num_pairs", range(1, 11))
def test_p_value_is_that_of_all_patterns(num_pairs: int) -> None:
    generator = np.random.default_rng(num_pairs)
    for shift in (0.0, 0.5, 3.0):
        differences = generator.normal(shift, 1, num_pairs).tolist()
        assert sign_flip_p_value(differences) == pytest.approx(brute_force_p_value(differences))


def test_p_value_counts_patterns_that_equal_the_observed_one() -> None:
    differences = [0.1, 0.2, 0.3, -0.2]  # sums with ties, inexact in binary
    assert sign_flip_p_value(differences) == brute_force_p_value(differences)
    assert sign_flip_p_value([0.1, -0.1]) == 1.0
    assert sign_flip_p_value([0.0, 0.0, 0.0]) == 1.0


def test_p_value_ignores_order_sign_and_scale() -> None:
    differences = [0.4, -0.1, 0.35, 0.2, 0.05]
    expected = sign_flip_p_value(differences)
    assert sign_flip_p_value(differences[::-1]) == expected
    assert sign_flip_p_value([-d for d in differences]) == expected
    assert sign_flip_p_value([1e-9 * d for d in differences]) == expected


@pytest.mark.parametrize("num_pairs", [1, 2, 3, 5, 6, 10, 40])
def test_pairs_that_agree_reach_the_smallest_p_value(num_pairs: int) -> None:
    assert smallest_p_value(num_pairs) == 2 / 2**num_pairs
    differences = [-0.1 - 0.01 * i for i in range(num_pairs)]
    assert sign_flip_p_value(differences) == smallest_p_value(num_pairs)


def test_sign_test_in_closed_form() -> None:
    assert sign_test_p_value(0, 0) == 1.0
    assert sign_test_p_value(3, 0) == sign_test_p_value(0, 3) == 0.25
    assert sign_test_p_value(5, 2) == pytest.approx(2 * (1 + 7 + 21) / 2**7)


def holm_step_by_step(p_values: list[float], level: float) -> list[bool]:
    """As Holm writes it: reject the smallest while it is at most `level / (comparisons left)`."""
    rejected = [False] * len(p_values)
    for step, index in enumerate(np.argsort(p_values)):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def test_adjusted_p_values_reject_what_holm_rejects() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        p_values = draw.beta(0.3, 1, draw.integers(1, 6)).tolist()
        adjusted = holm(p_values)
        for level in (0.01, 0.05, 0.2):
            assert [p <= level for p in adjusted] == holm_step_by_step(p_values, level)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]


def test_a_score_is_reached_at_the_first_evaluation_that_is_as_good() -> None:
    curve = {10: 9.0, 20: 5.0, 30: 6.0, 40: 4.0}
    assert images_to_score(curve, 5.0, "lower") == 20
    assert images_to_score(curve, 4.5, "lower") == 40
    assert images_to_score(curve, 9.5, "lower") == 10
    assert images_to_score(curve, 3.9, "lower") is None
    assert images_to_score(curve, 8.0, "higher") == 10
    assert images_to_score(curve, 9.1, "higher") is None


def test_equal_scores_reach_their_mean() -> None:
    for value in np.random.default_rng(0).uniform(1e-4, 50, 200).tolist():
        mean = math.exp(math.log(value))  # one run's geometric mean, off by a bit or two
        assert images_to_score({10: value}, mean, "lower") == 10
        assert images_to_score({10: value}, mean, "higher") == 10


def test_mean_score_in_closed_form() -> None:
    assert mean_score({5: 3.0, 9: 3.0, 100: 3.0}) == pytest.approx(3.0)
    # exp(-t) has the logarithm -t, whose mean over 0 to 4 is -2, wherever it is evaluated.
    assert mean_score({t: math.exp(-t) for t in (0, 1, 4)}) == pytest.approx(math.exp(-2))
    assert mean_score({t: 0.9 * math.exp(-t) for t in (0, 1, 4)}) == pytest.approx(
        0.9 * math.exp(-2)
    )


def test_mean_score_is_the_integral() -> None:
    images = np.linspace(0, 3, 2001)
    curve = {int(1000 * x): math.exp(math.sin(x)) for x in images}
    expected = math.exp((1 - math.cos(3)) / 3)
    assert mean_score(curve) == pytest.approx(expected, rel=1e-3)


def times(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> ImagesToScore:
    return ImagesToScore(
        target=5.0,
        total_images=100,
        seeds=tuple(range(len(a))),
        images_a=a,
        images_b=b,
        level=0.05,
    )


def test_a_censored_run_is_later_than_any_other() -> None:
    time = times((40, None, 60, None, 100), (20, 100, None, None, 100))
    assert (time.num_sooner, time.num_later, time.num_censored) == (2, 1, 4)
    assert time.p_value == 1.0
    assert (time.log_ratios, time.mean_log_ratio, time.interval) == (None, None, None)
    assert time.to_dict()["images_a"] == [40, None, 60, None, 100]


def test_a_run_that_was_there_before_its_first_image_is_the_soonest() -> None:
    time = times((40, 0, 0), (0, 20, 0))
    assert (time.num_sooner, time.num_later, time.num_censored) == (1, 1, 0)
    assert time.log_ratios is None


def test_runs_that_all_reached_it_have_a_mean() -> None:
    time = times((40, 80, 60), (20, 40, 30))
    assert time.log_ratios == pytest.approx([-math.log(2)] * 3)
    assert time.mean_log_ratio == pytest.approx(-math.log(2))
    assert time.p_value == 0.25
    spread = times((40, 80, 60), (20, 20, 30))
    assert spread.log_ratios is not None
    assert spread.interval == t_interval(spread.log_ratios)
