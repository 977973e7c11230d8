import pytest
import torch
from scipy.stats import linregress
from torch import Tensor

from nacgen.functional.frechet import _intercept, fid_infinity, frechet_bias, frechet_distance

MEAN, COVARIANCE = torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)


def random_features(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, dtype=torch.float64, generator=generator)


def test_the_line_is_that_of_least_squares() -> None:

    x, y = random_features(12)[:, 0], random_features(12)[:, 1]
    expected = linregress(x, y)
    found = _intercept(x, y)
    assert found.value.item() == pytest.approx(expected.intercept, rel=1e-10)
    assert found.standard_error.item() == pytest.approx(expected.intercept_stderr, rel=1e-10)
    assert found.slope.item() == pytest.approx(expected.slope, rel=1e-10)


def test_a_perfect_generator_is_at_no_distance_whatever_the_number_of_images() -> None:
    lines = [fid_infinity(MEAN, COVARIANCE, random_features(1000, seed)) for seed in range(8)]
    values = torch.stack([line.value for line in lines])
    bias = frechet_bias(COVARIANCE, 1000, 10**9).item()
    assert abs(values.mean().item()) < 0.4 * bias
    slope = torch.stack([line.slope for line in lines]).mean().item()
    assert slope == pytest.approx(1000 * bias, rel=0.3)


def test_a_shifted_generator_keeps_its_distance() -> None:
    line = fid_infinity(MEAN, COVARIANCE, random_features(2000) + 1)
    assert line.value.item() == pytest.approx(4, rel=0.1)
    assert line.standard_error < 0.2


def test_the_largest_size_is_all_rows_in_any_order() -> None:
    features = random_features(100)
    line = fid_infinity(MEAN, COVARIANCE, features, num_sizes=3, smallest=98)
    whole = frechet_distance(MEAN, COVARIANCE, features.mean(0), torch.cov(features.mT)).value
    assert line.value + line.slope / 100 == pytest.approx(whole.item(), rel=0.05)


def test_the_draws_follow_the_seed() -> None:
    features = random_features(100)
    lines = [fid_infinity(MEAN, COVARIANCE, features, seed=seed) for seed in (0, 0, 1)]
    assert lines[0] == lines[1]
    assert lines[0].value != lines[2].value


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (random_features(20), {}, "got 15 sizes from 8 to 20 for 4 features"),
        (random_features(90), {"smallest": 4}, "got 15 sizes from 4 to 90 for 4 features"),
        (random_features(90), {"num_sizes": 2}, "got 2 sizes from 9 to 90 for 4 features"),
        (random_features(1), {}, "features must have 2 rows or more, got 1"),
        (random_features(90)[:, 0], {}, r"features must be float \(n, d\), .* \(90,\)"),
        (random_features(90) / 0, {}, "NaN or infinity in 90 of 90 rows"),
    ],
)
def test_too_few_images_are_refused(
    features: Tensor, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fid_infinity(MEAN, COVARIANCE, features, **options)
