import math

import numpy as np
import pytest

from nacgen.comparison.endpoints import ImagesToScore, images_to_score, mean_score
from nacgen.comparison.statistics import t_interval


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
