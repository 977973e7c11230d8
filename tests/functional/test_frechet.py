import math

import pytest
import torch
from torch import Tensor

from nacgen.functional import frechet
from nacgen.functional.frechet import (
    frechet_bias,
    frechet_distance,
)


def random_gaussian(dim: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(dim, dtype=torch.float64, generator=generator)
    factor = torch.randn(dim, dim, dtype=torch.float64, generator=generator)
    return mean, factor @ factor.mT / dim


def float64(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_in_one_dimension_it_is_the_difference_of_means_and_of_deviations() -> None:
    distance = frechet_distance(float64(1), float64([4]), float64(-2), float64([25]))
    assert distance.value.item() == pytest.approx((1 + 2) ** 2 + (2 - 5) ** 2, rel=1e-14)


def test_diagonal_covariances_add_up_over_axes() -> None:
    variances_1, variances_2 = float64(1, 4, 0), float64(9, 0, 2)
    mean = torch.zeros(3, dtype=torch.float64)
    distance = frechet_distance(mean, variances_1.diag(), mean + 1, variances_2.diag())
    expected = 3 + (variances_1.sqrt() - variances_2.sqrt()).square().sum()
    assert distance.value.item() == pytest.approx(expected.item(), rel=1e-14)


def test_two_by_two_covariances_that_do_not_commute() -> None:
    covariance_1, covariance_2 = float64([2, 1], [1, 3]), float64([5, -2], [-2, 1])
    product = covariance_1 @ covariance_2
    trace_of_root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    mean = torch.zeros(2, dtype=torch.float64)
    distance = frechet_distance(mean, covariance_1, mean, covariance_2)
    assert distance.value.item() == pytest.approx(5 + 6 - 2 * trace_of_root, rel=1e-13)


def test_covariances_of_rank_one() -> None:
    a, b = float64(1, 2, 3), float64(-1, 1, 2)
    mean = torch.zeros(3, dtype=torch.float64)
    distance = frechet_distance(mean, torch.outer(a, a), mean, torch.outer(b, b))
    expected = a.square().sum() + b.square().sum() - 2 * (a @ b).abs()
    assert distance.value.item() == pytest.approx(expected.item(), rel=1e-7)


def test_a_gaussian_has_no_distance_from_itself() -> None:
    mean, covariance = random_gaussian(32, 0)
    distance = frechet_distance(mean, covariance, mean, covariance)
    assert abs(distance.raw) < 1e-11 * covariance.trace()
    assert 0 <= distance.value <= abs(distance.raw)


def test_rounding_below_zero_is_clipped_and_kept_as_raw() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, axis = torch.randn(2, 64, dtype=torch.float64, generator=generator)
    covariance = torch.outer(axis, axis) + 1e-12 * torch.eye(64)  # the rest drowns in rounding
    distance = frechet_distance(mean, covariance, mean, covariance)
    assert distance.value == 0.0
    assert -1e-7 * covariance.trace() < distance.raw < 0


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("dim", [600, 40])
def test_few_samples_have_no_distance_from_themselves(n: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(n, dim, dtype=torch.float64, generator=generator)
    mean, covariance = features.mean(0), torch.cov(features.mT)
    distance = frechet_distance(mean, covariance, mean, covariance)
    assert abs(distance.raw) < 1e-12 * covariance.trace()


def test_it_is_symmetric() -> None:
    gaussian_1, gaussian_2 = random_gaussian(8, 0), random_gaussian(8, 1)
    there = frechet_distance(*gaussian_1, *gaussian_2).value
    assert there.item() == pytest.approx(
        frechet_distance(*gaussian_2, *gaussian_1).value.item(), rel=1e-12
    )


def test_a_rotation_of_both_changes_nothing_and_a_scale_is_squared() -> None:
    (mean_1, covariance_1), (mean_2, covariance_2) = random_gaussian(8, 0), random_gaussian(8, 1)
    rotation = torch.linalg.qr(random_gaussian(8, 2)[1]).Q
    turned = frechet_distance(
        3 * rotation @ mean_1,
        9 * rotation @ covariance_1 @ rotation.mT,
        3 * rotation @ mean_2,
        9 * rotation @ covariance_2 @ rotation.mT,
    )
    plain = frechet_distance(mean_1, covariance_1, mean_2, covariance_2)
    assert turned.value.item() == pytest.approx(9 * plain.value.item(), rel=1e-12)


def test_the_bias_in_one_dimension_is_one_and_a_half_variances_over_each_size() -> None:
    bias = frechet_bias(float64([4.0]), 10, 40)
    assert bias.item() == pytest.approx((1 / 10 + 1 / 40) * 6, rel=1e-14)


def test_the_bias_is_what_two_samples_of_one_gaussian_show() -> None:
    generator = torch.Generator().manual_seed(0)
    scales, num_1, num_2 = float64(3, 1, 0.3), 400, 900
    shape = (200, num_1 + num_2, 3)
    samples = torch.randn(shape, dtype=torch.float64, generator=generator) * scales
    measured = [
        frechet_distance(
            *(part for rows in sample.split((num_1, num_2)) for part in moments(rows))
        ).value
        for sample in samples
    ]
    bias = frechet_bias(scales.square().diag(), num_1, num_2)
    assert torch.stack(measured).mean().item() == pytest.approx(bias.item(), rel=0.1)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.mean(0), torch.cov(rows.mT)


def test_directions_without_variance_add_no_bias() -> None:
    flat = torch.diag(float64(1, 0, 0))
    assert frechet_bias(flat, 5, 5).item() == pytest.approx(frechet_bias(flat[:1, :1], 5, 5).item())


def random_features(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_two_samples_of_two_rows_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 0], [2, 0, 0]]), torch.tensor([[0.0, 1, 0], [1, 2, 0]])
    # means (1, 0, 0) and (0.5, 1.5, 0); covariances are of u = (sqrt 2, 0, 0) and v = (1, 1, 0) / sqrt 2
    found = frechet_distance(*moments(a.double()), *moments(b.double()))
    assert found.value.item() == pytest.approx(0.25 + 2.25 + 2 + 1 - 2 * 1, rel=1e-14)


@pytest.mark.parametrize("n", [5, 12, 50])
def test_features_have_no_distance_from_themselves_in_any_order(n: int) -> None:
    features = random_features(n, 12, 0).double() + 1e3
    found = frechet_distance(*moments(features), *moments(features.flip(0)))
    assert abs(found.raw) < 1e-6 * features.var(0).sum()


def test_a_factor_by_cholesky_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians = [*random_gaussian(40, 0), *random_gaussian(40, 1)]
    by_axes = frechet_distance(*gaussians).value.item()
    monkeypatch.setattr(frechet, "CHOLESKY_FROM", 2)
    monkeypatch.setattr(torch.linalg, "eigh", None)  # not needed any more
    assert frechet_distance(*gaussians).value.item() == pytest.approx(by_axes, rel=1e-11)


def test_without_such_a_factor_the_axes_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "CHOLESKY_FROM", 2)
    test_covariances_of_rank_one()
    with pytest.raises(ValueError, match=r"covariance_1 .* below zero, got -3 "):
        frechet_distance(ZERO, float64([1, 0], [0, -3]), ZERO, EYE)


NAN = float("nan")
EYE = torch.eye(2, dtype=torch.float64)
ZERO = torch.zeros(2, dtype=torch.float64)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ZERO.float(), EYE, ZERO, EYE), r"mean_1 must be float64, got torch.float32"),
        ((ZERO, EYE, ZERO, EYE.half()), r"covariance_2 must be float64, got torch.float16"),
        ((ZERO, EYE, ZERO[:1], EYE[:1, :1]), r"got \(2,\), \(2, 2\), \(1,\) and \(1, 1\)"),
        ((EYE, EYE, EYE, EYE), r"means must be \(d,\).*got \(2, 2\), \(2, 2\)"),
        ((ZERO, EYE[:1], ZERO, EYE), r"covariance_1 must be \(d, d\), got \(1, 2\)"),
        ((ZERO, EYE, ZERO * NAN, EYE), r"mean_2 must be finite, got 2 entries"),
        ((ZERO, EYE, ZERO, float64([1, 2], [0, 1])), r"covariance_2 must be symmetric, .* by 2\."),
        ((ZERO, float64([1, 0], [0, -3]), ZERO, EYE), r"covariance_1 .* below zero, got -3 "),
        ((ZERO, EYE, ZERO, float64([1, 0], [0, -3])), r"covariance_2 .* below zero, got -3 "),
        ((ZERO, 0 * EYE, ZERO, -EYE), r"zero or more, got -2 with traces of -2"),
    ],
)
def test_what_is_no_gaussian_is_refused(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(*arguments)


@pytest.mark.usefixtures("as_users_run_it")
def test_the_bias_needs_a_covariance_and_two_members() -> None:
    with pytest.raises(ValueError, match="two members or more, got 1 and 7"):
        frechet_bias(EYE, 1, 7)
    with pytest.raises(ValueError, match=r"covariance must be \(d, d\), got \(2,\)"):
        frechet_bias(ZERO, 7, 7)
