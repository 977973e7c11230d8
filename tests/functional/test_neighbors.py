import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from nacgen.functional import features as features_module
from nacgen.functional.neighbors import (
    nearest_neighbor_memorization,
    precision_recall_density_coverage,
)
from tests.reference import scores


def random_features(n: int, seed: int, dim: int = 3) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_four_scores_are_those_of_the_papers(k: int) -> None:
    real, generated = random_features(40, 0), 0.7 * random_features(30, 1) + 0.5
    found = precision_recall_density_coverage(real, generated, k=k)
    expected = scores.precision_recall_density_coverage(real, generated, k)
    assert [each.item() for each in found] == pytest.approx(expected, rel=1e-12)
    assert 0 < found.recall < found.precision <= 1


def test_neighbours_are_those_of_scikit_learn() -> None:
    real, generated = random_features(300, 0, 64), 0.9 * random_features(200, 1, 64)
    search = NearestNeighbors(n_neighbors=6).fit(real.double())
    radii = search.kneighbors(real.double())[0][:, 5]  # the row itself is the first
    distances = pairwise_distances(generated.double(), real.double())
    inside = distances <= radii
    found = precision_recall_density_coverage(real, generated)
    assert found.precision.item() == inside.any(1).mean()
    assert found.density.item() == pytest.approx(inside.sum() / (5 * 200), rel=1e-14)
    assert found.coverage.item() == inside.any(0).mean()


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_identical_sets_are_perfect_also_where_rows_are_repeated(offset: float) -> None:
    rows = random_features(10, 0).repeat(8, 1) + offset  # neighbourhoods of radius zero
    found = precision_recall_density_coverage(rows, rows)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density.item() == pytest.approx(8 / 5)


def test_sets_far_apart_share_nothing() -> None:
    found = precision_recall_density_coverage(random_features(20, 0), random_features(20, 1) + 99)
    assert list(found) == [0, 0, 0, 0]


def test_dropping_modes_lowers_recall_and_coverage_but_not_precision() -> None:
    modes = 50 * torch.eye(4, 8).repeat(40, 1)
    real = modes + random_features(160, 0, 8)
    generated = modes + random_features(160, 1, 8)
    is_kept = torch.arange(160) % 4 < 2
    whole = precision_recall_density_coverage(real, generated)
    half = precision_recall_density_coverage(real, generated[is_kept])
    assert half.precision >= whole.precision - 0.05
    assert half.recall < whole.recall - 0.2
    assert half.coverage < whole.coverage - 0.2


def test_blocks_and_the_order_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = random_features(50, 0), random_features(40, 1)
    whole = precision_recall_density_coverage(real, generated)
    assert precision_recall_density_coverage(real.flip(0), generated.flip(0)) == whole
    memorized = nearest_neighbor_memorization(generated, real, random_features(30, 2))
    monkeypatch.setattr("nacgen.functional.neighbors.block_rows", lambda columns: 7)
    assert features_module.block_rows(torch.empty(2**30, 0)) == 1
    assert precision_recall_density_coverage(real, generated) == whole
    again = nearest_neighbor_memorization(generated, real, random_features(30, 2))
    assert torch.equal(again.nearest, memorized.nearest)


def test_copies_of_training_images_are_found() -> None:
    train, test = random_features(200, 0, 8), random_features(100, 1, 8)
    found = nearest_neighbor_memorization(train[50:90], train, test)
    assert found.probability == 1
    assert found.z_score > 5
    assert found.distances.tolist() == [0] * 40
    assert found.nearest.tolist() == list(range(50, 90))


def test_fresh_samples_are_no_copies_and_far_ones_even_less() -> None:
    train, test = random_features(200, 0, 8), random_features(100, 1, 8)
    fresh = nearest_neighbor_memorization(random_features(100, 2, 8), train, test)
    assert fresh.probability.item() == pytest.approx(0.5, abs=0.1)
    assert abs(fresh.z_score) < 2.5
    assert nearest_neighbor_memorization(test + 50, train, test).probability == 0


def test_the_statistic_is_that_of_mann_and_whitney() -> None:

    generated, train, test = (random_features(n, n, 8) for n in (30, 80, 40))
    generated[:3] = test[:3]  # ties
    found = nearest_neighbor_memorization(generated, train, test)
    expected = NearestNeighbors(n_neighbors=1).fit(train.double()).kneighbors(generated.double())
    assert found.distances.tolist() == pytest.approx(expected[0][:, 0].tolist(), rel=1e-9)
    assert found.nearest.tolist() == expected[1][:, 0].tolist()
    u = mannwhitneyu(found.test_distances, found.distances).statistic
    assert found.probability.item() == pytest.approx(u / (30 * 40), rel=1e-12)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("generated", "k", "message"),
    [
        (torch.zeros(5, 3), 5, "generated must have 6 rows or more, got 5"),
        (torch.zeros(9), 5, r"generated must be float \(n, d\), .* got torch.float32 \(9,\)"),
        (torch.zeros(9, 2), 5, r"real and generated must have rows of one length, .* \(9, 2\)"),
        (torch.zeros(9, 3) / 0, 5, "generated must be finite, got NaN or infinity in 9 of 9 rows"),
        (torch.zeros(9, 3), 0, "k must be 1 or more, got 0"),
    ],
)
def test_what_has_no_neighbours_is_refused(generated: Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        precision_recall_density_coverage(random_features(9, 0), generated, k=k)


@pytest.mark.usefixtures("as_users_run_it")
def test_memorisation_needs_two_images_of_each_kind() -> None:
    rows = random_features(9, 0)
    with pytest.raises(ValueError, match="test must have 2 rows or more, got 1"):
        nearest_neighbor_memorization(rows, rows, rows[:1])
    with pytest.raises(ValueError, match=r"generated and train .* \(9, 3\) and \(9, 2\)"):
        nearest_neighbor_memorization(rows, rows[:, :2], rows)
