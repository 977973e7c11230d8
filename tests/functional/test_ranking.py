import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from nacgen.functional import ranking
from nacgen.functional.ranking import (
    DistanceCounts,
    average_precision,
    ordered_average_precision,
    precision_at,
    precision_recall,
    precision_within,
)
from tests.reference import retrieval as reference

DISTANCES = [0, 0, 1, 1, 1, 1, 2, 4, 4]
RELEVANT = [True, False, False, True, True, False, True, False, True]


def counted(distances: list[int], relevant: list[bool], num_distances: int = 6) -> DistanceCounts:
    """Counts of one query."""
    places, is_relevant = torch.tensor(distances), torch.tensor(relevant)
    return DistanceCounts(
        torch.bincount(places[is_relevant], minlength=num_distances)[None],
        torch.bincount(places, minlength=num_distances)[None],
    )


def rows(*counts: DistanceCounts) -> DistanceCounts:
    return DistanceCounts(*(torch.cat(part) for part in zip(*counts, strict=True)))


def untied(seed: int, size: int = 300) -> tuple[Tensor, Tensor]:
    """Distances that all differ, and which items are relevant."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=generator)
    return order, torch.rand(size, generator=generator) < 0.2


@pytest.mark.parametrize("top", [None, *range(1, 12)])
def test_it_is_the_mean_over_every_order_of_the_ties(top: int | None) -> None:
    every = [reference.average_precision(o, top) for o in reference.orders(DISTANCES, RELEVANT)]
    assert len(every) == 2 * 24 * 2
    value = average_precision(counted(DISTANCES, RELEVANT), top)
    assert value.item() == pytest.approx(sum(every) / len(every), abs=1e-12)


@pytest.mark.parametrize("top", [None, 1, 3, 4, 7])
def test_one_group_of_ties_is_in_random_order(top: int | None) -> None:
    distances, relevant = [3] * 7, [True, True, False, True, False, False, False]
    every = [reference.average_precision(o, top) for o in reference.orders(distances, relevant)]
    value = average_precision(counted(distances, relevant), top)
    assert value.item() == pytest.approx(sum(every) / len(every), abs=1e-12)


@pytest.mark.parametrize("num_items", range(1, 10))
def test_precision_is_the_mean_over_every_order_of_the_ties(num_items: int) -> None:
    every = [reference.precision(o, num_items) for o in reference.orders(DISTANCES, RELEVANT)]
    value = precision_at(counted(DISTANCES, RELEVANT), num_items)
    assert value.item() == pytest.approx(sum(every) / len(every), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_without_ties_it_agrees_with_scikit_learn(seed: int) -> None:
    order, relevant = untied(seed)
    expected = average_precision_score(relevant.numpy(), -order.numpy())
    counts = counted(order.tolist(), relevant.tolist(), 300)
    assert average_precision(counts).item() == pytest.approx(expected, rel=1e-12)
    in_order = relevant[order.argsort()][None]
    assert ordered_average_precision(in_order).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("top", [None, 1, 17, 100, 300, 1000])
def test_without_ties_counting_equals_sorting(top: int | None) -> None:
    queries = [untied(seed) for seed in range(20)]
    counts = rows(*(counted(o.tolist(), r.tolist(), 300) for o, r in queries))
    in_order = torch.stack([r[o.argsort()] for o, r in queries])
    assert average_precision(counts, top).tolist() == pytest.approx(
        ordered_average_precision(in_order, top).tolist(), abs=1e-12
    )


@pytest.mark.parametrize("top", [None, 4])
def test_an_order_is_scored_as_the_loop_does(top: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    in_order = torch.rand(10, 30, generator=generator) < 0.1
    in_order[0] = False
    expected = [reference.average_precision(row, top) for row in in_order.tolist()]
    assert 0.0 in expected
    assert ordered_average_precision(in_order, top).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_cut_in_chunks_is_the_cut_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    total = torch.randint(0, 50, (9, 6), generator=generator)
    total[:, 5] += 300 - total.sum(1)
    counts = DistanceCounts((total * torch.rand(9, 6, generator=generator)).long(), total)
    at_once = average_precision(counts, 100)
    monkeypatch.setattr(ranking, "CHUNK", 1)
    assert torch.equal(average_precision(counts, 100), at_once)


def test_codes_without_information_score_the_share_of_relevant_items() -> None:
    counts = DistanceCounts(torch.tensor([[0, 5_000, 0]]), torch.tensor([[0, 50_000, 0]]))
    assert average_precision(counts).item() == pytest.approx(0.1, abs=2e-4)
    assert precision_at(counts, 1_000).item() == pytest.approx(0.1, abs=1e-12)
    assert average_precision(counts, 1_000).item() == pytest.approx(0.1, abs=1e-2)


def test_large_galleries_lose_no_precision() -> None:
    """One relevant item among a million tied ones: H_n / n."""
    size = 1_000_000
    harmonic = sum(1 / i for i in range(1, size + 1))
    counts = DistanceCounts(torch.tensor([[1]]), torch.tensor([[size]]))
    assert average_precision(counts).item() == pytest.approx(harmonic / size, rel=1e-11)
    top = average_precision(counts, 1_000).item()  # it is among them with probability 1/1000
    assert top == pytest.approx(sum(1 / i for i in range(1, 1_001)) / size, rel=1e-8)


def test_queries_without_relevant_items_score_zero() -> None:
    counts = DistanceCounts(torch.tensor([[0, 0], [1, 0]]), torch.tensor([[2, 3], [2, 3]]))
    assert average_precision(counts).tolist() == [0.0, 0.75]
    assert average_precision(counts, 2).tolist() == [0.0, 0.75]
    assert precision_at(counts, 2).tolist() == [0.0, 0.5]


def test_an_empty_ball_counts_as_zero_and_is_named() -> None:
    counts = rows(
        counted([0, 2, 3], [True, False, True]),
        counted([3, 3, 4], [True, True, True]),
        counted([1, 3, 3], [False, True, True]),
    )
    ball = precision_within(counts, 2)
    assert ball.precision.tolist() == [0.5, 0.0, 0.0]
    assert ball.is_empty.tolist() == [False, True, False]


def test_the_curve_pools_pairs_up_to_each_distance() -> None:
    counts = rows(counted([1, 2, 4], [True, False, True]), counted([2, 2, 5], [True, True, False]))
    curve = precision_recall(counts)
    assert curve.distances.tolist() == [1, 2, 3, 4, 5]
    assert curve.precision.tolist() == pytest.approx([1, 3 / 4, 3 / 4, 4 / 5, 4 / 6])
    assert curve.recall.tolist() == pytest.approx([1 / 4, 3 / 4, 3 / 4, 1, 1])


def test_numbers_out_of_range_are_named() -> None:
    counts = counted([0, 1], [True, False])
    with pytest.raises(ValueError, match="top must be one item or more, got 0"):
        average_precision(counts, 0)
    with pytest.raises(ValueError, match="top must be one item or more, got -3"):
        ordered_average_precision(torch.ones(1, 2, dtype=torch.bool), -3)
    with pytest.raises(ValueError, match="size of the gallery, 2, got 3"):
        precision_at(counts, 3)
    with pytest.raises(ValueError, match="zero or more, got -1"):
        precision_within(counts, -1)
    with pytest.raises(ValueError, match="none of 1 queries"):
        precision_recall(counted([0, 1], [False, False]))
