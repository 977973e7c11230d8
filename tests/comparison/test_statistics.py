import math
from itertools import product

import numpy as np
import pytest

from nacgen.comparison.statistics import (
    holm,
    sign_flip_p_value,
    sign_test_p_value,
    smallest_p_value,
    t_interval,
)


def test_interval_of_two_values_in_closed_form() -> None:
    half = math.tan(0.95 * math.pi / 2)  # one degree of freedom is Cauchy's distribution
    assert t_interval([-1.0, 1.0]) == pytest.approx((-half, half))
    assert t_interval([0.1]) is None


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
