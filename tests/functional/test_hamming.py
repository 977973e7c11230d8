import numpy as np
import pytest
import torch
from torch import Tensor

from nacgen.functional import hamming
from nacgen.functional.hamming import CodePairs, nearest_codes, pack_codes
from tests.reference import retrieval as reference


def codes(rows: int, bits: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, bits, generator=torch.Generator().manual_seed(seed)) < 0.4


def distances(queries: Tensor, gallery: Tensor) -> Tensor:
    blocks = CodePairs(queries, gallery).each_block(lambda _, block: block.to(torch.int16))
    return torch.cat(blocks)


@pytest.fixture(params=[1, 7, 2**15], ids=lambda size: f"chunk{size}")
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "CPU_BLOCK", request.param)


@pytest.fixture(params=["faiss", "counted", "multiplied"])
def _route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """faiss, bit counts, as on a CPU without it, and the matrix product of all other devices."""
    if request.param == "faiss":
        pytest.importorskip("faiss")
        assert hamming._has_faiss()
    else:
        monkeypatch.setattr(hamming, "_has_faiss", lambda: False)
    if request.param == "multiplied":
        monkeypatch.setattr(hamming, "_counted", hamming._multiplied)
        monkeypatch.setattr(hamming, "_nearest_bounded", hamming._nearest_selected)


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 64, 129])
def test_packing_is_that_of_numpy(bits: int) -> None:
    original = codes(11, bits)
    packed = pack_codes(original)
    assert packed.tolist() == np.packbits(original.numpy(), axis=1).tolist()


@pytest.mark.usefixtures("_chunk", "_route")
@pytest.mark.parametrize("bits", [1, 13, 64, 65, 300])
def test_distances_equal_loops(bits: int) -> None:
    queries, gallery = codes(5, bits), codes(9, bits, 1)
    expected = [[reference.hamming(q, g) for g in gallery.tolist()] for q in queries.tolist()]
    assert distances(queries, gallery).tolist() == expected


@pytest.mark.usefixtures("_route")
def test_neighbors_are_the_nearest_with_ties_by_index() -> None:
    queries, gallery = codes(4, 5), codes(30, 5, 1)
    found = nearest_codes(queries, gallery, 7)
    for i, code in enumerate(queries.tolist()):
        loops = [reference.hamming(code, g) for g in gallery.tolist()]
        order = sorted(range(30), key=loops.__getitem__)[:7]
        assert found.indices[i].tolist() == order
        assert found.distances[i].tolist() == [loops[j] for j in order]


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("bits", [3, 16])
def test_neighbors_in_a_large_gallery_are_the_first_of_a_stable_sort(bits: int) -> None:
    """Of three bits hundreds of items tie, and candidates abound; of sixteen there are few."""
    queries, gallery = codes(6, bits), codes(5_003, bits, 1)
    order = distances(queries, gallery).sort(dim=1, stable=True)
    for number in (1, 10, 900, 5_003):
        found = nearest_codes(queries, gallery, number)
        assert torch.equal(found.indices, order.indices[:, :number])
        assert torch.equal(found.distances, order.values[:, :number])


@pytest.mark.parametrize("bits", [3, 16, 64, 200])
def test_neighbors_found_by_several_threads_equal_a_sort_of_all_pairs(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hamming, "_has_faiss", lambda: False)
    monkeypatch.setattr(hamming, "CPU_BLOCK", 300)
    monkeypatch.setattr(hamming, "CPU_BLOCK_OF_BYTES", 3_000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    queries, gallery = codes(50, bits), codes(1_001, bits, 1)
    pairs = (queries.numpy()[:, None] != gallery.numpy()).sum(axis=2)
    order = pairs.argsort(axis=1, kind="stable")[:, :10]
    found = nearest_codes(queries, gallery, 10)
    assert np.array_equal(found.indices.numpy(), order)
    assert np.array_equal(found.distances.numpy(), np.take_along_axis(pairs, order, axis=1))


@pytest.mark.usefixtures("_route")
def test_the_reference_ranking_knows_nothing_of_shared_zeros() -> None:
    query = torch.tensor([[True, False, False, False]])
    gallery = torch.tensor([[True, True, True, True], [True, False, False, False]])
    assert nearest_codes(query, gallery, 1).indices.tolist() == [[1]]
    tied = nearest_codes(query, gallery, 2, "reference")
    assert tied.indices.tolist() == [[0, 1]]
    assert tied.distances.tolist() == [[3, 3]]


@pytest.mark.usefixtures("as_users_run_it")
def test_other_codes_are_refused() -> None:
    some = torch.zeros(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="one code length, got 4 and 9 bits"):
        distances(some, codes(2, 9))
    with pytest.raises(ValueError, match=r"codes must be bits.*got torch.int64"):
        pack_codes(some.long())
    with pytest.raises(ValueError, match="between 1 and the size of the gallery, 3, got 4"):
        nearest_codes(some, some, 4)
