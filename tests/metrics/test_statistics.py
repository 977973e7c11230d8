import pytest
import torch
from torch import Tensor

from nacgen.errors import DataError, NonFiniteError
from nacgen.metrics.statistics import GaussianStats, StatsAccumulator


def random_features(n: int = 60, dim: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, dim, generator=generator)


def accumulate(*batches: Tensor) -> GaussianStats:
    accumulator = StatsAccumulator(batches[0].shape[1])
    for batch in batches:
        accumulator.update(batch)
    return accumulator.result()


def assert_close(stats: GaussianStats, expected: GaussianStats, rtol: float = 1e-12) -> None:
    assert stats.n == expected.n
    torch.testing.assert_close(stats.mean, expected.mean, rtol=rtol, atol=1e-14)
    torch.testing.assert_close(stats.covariance, expected.covariance, rtol=rtol, atol=1e-14)


def test_the_covariance_is_divided_by_n_minus_one() -> None:
    stats = accumulate(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    assert stats.mean.tolist() == [2.0, 2.0]
    assert stats.covariance.tolist() == [[2.0, 4.0], [4.0, 8.0]]


@pytest.mark.parametrize("sizes", [(60,), (1,) * 60, (1, 59), (59, 1), (7, 0, 30, 23)])
def test_any_partition_into_batches_gives_the_same(sizes: tuple[int, ...]) -> None:
    features = random_features()
    rows = features.double()
    expected = GaussianStats(60, rows.mean(0), torch.cov(rows.mT))
    assert_close(accumulate(*features.split(sizes)), expected)


def test_a_large_offset_costs_no_precision() -> None:
    features = random_features(1000) + 1e4
    rows = features.double()
    expected = GaussianStats(1000, rows.mean(0), torch.cov((rows - 1e4).mT))
    assert_close(accumulate(*features.split(17)), expected, rtol=1e-9)


def test_features_of_any_float_type_are_summed_in_float64() -> None:
    features = random_features().bfloat16()
    stats = accumulate(features)
    assert stats.mean.dtype == stats.covariance.dtype == torch.float64
    assert_close(stats, accumulate(features.double()))


def test_reducing_without_a_process_group_changes_nothing() -> None:
    accumulator = StatsAccumulator(5)
    accumulator.update(random_features())
    accumulator.reduce()
    assert_close(accumulator.result(), accumulate(random_features()), rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    features = random_features()
    features[20, 3] = value
    with pytest.raises(NonFiniteError, match="NaN or infinity in 1 of 5 columns among 60 samples"):
        accumulate(*features.split(8))


def test_fewer_than_two_samples_are_refused() -> None:
    with pytest.raises(DataError, match="two samples or more, got 1"):
        accumulate(random_features(1))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("shape", [(5,), (4, 6), (4, 5, 1, 1)])
def test_features_must_be_rows_of_the_expected_length(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"must be \(b, 5\), got \({shape[0]},.*\)\. Pool"):
        StatsAccumulator(5).update(torch.zeros(shape))
