import pytest
import torch
from torch import Tensor

from nacgen.functional import hamming
from nacgen.functional.hamming import CodePairs, Ranking
from nacgen.functional.hashing import distance_counts, is_relevant, stable_average_precision
from nacgen.functional.ranking import average_precision
from tests.reference import retrieval as reference


def codes(rows: int, bits: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, bits, generator=torch.Generator().manual_seed(seed)) < 0.4


def classes(rows: int, seed: int = 0, number: int = 3) -> Tensor:
    return torch.randint(number, (rows,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1, 7, 2**15], ids=lambda size: f"chunk{size}")
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "CPU_BLOCK", request.param)


@pytest.fixture(params=["counted", "multiplied"])
def _route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit counts, as on a CPU, and the matrix product of all other devices."""
    if request.param == "multiplied":
        monkeypatch.setattr(hamming, "_counted", hamming._multiplied)


@pytest.mark.usefixtures("_chunk", "_route")
@pytest.mark.parametrize("ranking", ["hamming", "reference"])
def test_counts_equal_loops(ranking: Ranking) -> None:
    queries, gallery = codes(6, 10), codes(40, 10, 1)
    query_labels, gallery_labels = classes(6), classes(40, 1)
    counts = distance_counts(queries, query_labels, gallery, gallery_labels, ranking)
    relevant, total = torch.zeros(6, 11), torch.zeros(6, 11)
    for i, q in enumerate(queries.tolist()):
        for j, g in enumerate(gallery.tolist()):
            shared = 10 - reference.shared_ones(q, g)
            distance = reference.hamming(q, g) if ranking == "hamming" else shared
            total[i, distance] += 1
            relevant[i, distance] += query_labels[i] == gallery_labels[j]
    assert counts.total.tolist() == total.tolist()
    assert counts.relevant.tolist() == relevant.tolist()


@pytest.mark.usefixtures("_route")
def test_counts_stay_exact_with_a_small_gallery_and_many_queries() -> None:
    """The bins of a chunk must not outgrow 32 bits, nor memory."""
    queries, gallery = codes(200_000, 64), codes(3, 64, 1)
    counts = distance_counts(queries, classes(200_000), gallery, classes(3))
    assert counts.total.sum(1).unique().tolist() == [3]
    last = (queries[-1] != gallery).sum(dim=1)
    assert torch.equal(counts.total[-1], torch.bincount(last, minlength=65))


def test_multi_hot_labels_are_relevant_where_they_share_one() -> None:
    queries = torch.tensor([[1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    gallery = torch.tensor([[0, 1, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)
    assert is_relevant(queries, gallery).tolist() == [[True, False, True], [False] * 3]


def test_one_hot_labels_count_as_classes_do() -> None:
    queries, gallery, q, g = codes(6, 10), codes(40, 10, 1), classes(6), classes(40, 1)
    one_hot = distance_counts(queries, torch.eye(3)[q] > 0, gallery, torch.eye(3)[g] > 0)
    for part, expected in zip(one_hot, distance_counts(queries, q, gallery, g), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.usefixtures("_chunk", "_route")
@pytest.mark.parametrize("bits", [6, 600])
@pytest.mark.parametrize("top", [None, 5])
def test_stable_average_precision_orders_ties_by_index(bits: int, top: int | None) -> None:
    queries, gallery = codes(5, bits), codes(50, bits, 1)
    q, g = classes(5), classes(50, 1)
    expected = []
    for code, label in zip(queries.tolist(), q.tolist(), strict=True):
        order = sorted(range(50), key=lambda j: reference.hamming(code, gallery[j].tolist()))
        expected.append(reference.average_precision([g[j] == label for j in order], top))
    value = stable_average_precision(queries, q, gallery, g, top)
    assert value.tolist() == pytest.approx(expected, abs=1e-12)


def test_ties_by_index_scatter_around_their_expected_value() -> None:
    queries, gallery, q, g = codes(20, 6), codes(200, 6, 1), classes(20), classes(200, 1)
    expected = average_precision(distance_counts(queries, q, gallery, g)).mean()
    shuffled = []
    for seed in range(200):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        shuffled.append(stable_average_precision(queries, q, gallery[order], g[order]).mean())
    values = torch.stack(shuffled)
    assert abs(values.mean() - expected) < 4 * values.std() / 200**0.5
    assert values.std() > 1e-3  # the order of the gallery matters to the stable value


@pytest.mark.usefixtures("_route")
def test_bfloat16_regions_do_not_round_distances() -> None:
    queries, gallery = codes(3, 600), codes(8, 600, 1)
    plain = (queries[:, None] != gallery).sum(dim=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = CodePairs(queries, gallery).each_block(lambda _, block: block.long())
        assert torch.equal(found, plain)
        relevant = is_relevant(codes(3, 600), codes(8, 600, 1))
    assert relevant.all()


CODES, LABELS = torch.zeros(3, 4, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
HOT = torch.ones(3, 2, dtype=torch.bool)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CODES.float(), LABELS, CODES, LABELS), r"query_codes must be bits.*got torch.float32"),
        ((CODES, LABELS, CODES[:, :2], LABELS), r"one code length, got 4 and 2 bits"),
        ((CODES[:0], LABELS[:0], CODES, LABELS), r"query_codes must be \(n, k\).*got \(0, 4\)"),
        ((CODES, LABELS, CODES[:0], LABELS[:0]), r"gallery_codes must be .*got \(0, 4\)"),
        ((CODES, None, CODES, LABELS), r"query_labels is None"),
        ((CODES, LABELS, CODES, None), r"gallery_labels is None"),
        ((CODES, LABELS.float(), CODES, LABELS), r"query_labels must be classes.*float32 \(3,\)"),
        ((CODES, LABELS, CODES, LABELS - 1), r"gallery_labels must be classes from 0, got -1"),
        ((CODES, LABELS, CODES, HOT), r"of one kind, got shapes \(3,\) and \(3, 2\)"),
        ((CODES, HOT[:, :1], CODES, HOT), r"of one kind, got shapes \(3, 1\) and \(3, 2\)"),
        ((CODES, LABELS[:2], CODES, LABELS), r"query code .* got 3 codes and 2 labels"),
        ((CODES, LABELS, CODES, LABELS, "dot"), r"hamming or reference, got 'dot'"),
    ],
)
def test_what_cannot_be_ranked_is_refused(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distance_counts(*arguments)
    with pytest.raises(ValueError, match=message):
        stable_average_precision(*arguments[:4], ranking=(*arguments, "hamming")[4])
