import numpy as np
import pytest
import torch
from torch import Tensor

from nacgen.functional import hamming
from nacgen.functional.hamming import hamming_distances, nearest_codes, pack_codes, unpack_codes
from tests.reference import retrieval as reference


def codes(rows: int, bits: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, bits, generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.fixture(params=[1, 7, 2**15], ids=lambda size: f"chunk{size}")
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "CPU_BLOCK", request.param)


@pytest.fixture(params=["counted", "multiplied"])
def _route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit counts, as on a CPU, and the matrix product of all other devices."""
    if request.param == "multiplied":
        monkeypatch.setattr(hamming, "_counted", hamming._multiplied)
        monkeypatch.setattr(hamming, "_nearest_bounded", hamming._nearest_selected)


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 64, 129])
def test_packing_is_numpys_and_unpacking_its_inverse(bits: int) -> None:
    original = codes(11, bits)
    packed = pack_codes(original)
    assert packed.tolist() == np.packbits(original.numpy(), axis=1).tolist()
    assert torch.equal(unpack_codes(packed, bits), original)


@pytest.mark.usefixtures("_chunk", "_route")
@pytest.mark.parametrize("bits", [1, 13, 64, 65, 300])
def test_packed_distances_equal_loops(bits: int) -> None:
    queries, gallery = codes(5, bits), codes(9, bits, 1)
    expected = [[reference.hamming(q, g) for g in gallery.tolist()] for q in queries.tolist()]
    assert hamming_distances(pack_codes(queries), pack_codes(gallery)).tolist() == expected


@pytest.mark.parametrize("bits", [64, 129])
def test_threads_share_the_queries_in_order(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = pack_codes(codes(23, bits)), pack_codes(codes(9, bits, 1))
    at_once = hamming_distances(queries, gallery)
    monkeypatch.setattr(hamming, "CPU_BLOCK", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(hamming_distances(queries, gallery), at_once)


@pytest.mark.usefixtures("_route")
def test_neighbours_are_the_nearest_with_ties_by_index() -> None:
    queries, gallery = codes(4, 5), codes(30, 5, 1)
    found = nearest_codes(queries, gallery, 7)
    for i, code in enumerate(queries.tolist()):
        distances = [reference.hamming(code, g) for g in gallery.tolist()]
        order = sorted(range(30), key=distances.__getitem__)[:7]
        assert found.indices[i].tolist() == order
        assert found.distances[i].tolist() == [distances[j] for j in order]


@pytest.mark.usefixtures("_route")
@pytest.mark.parametrize("bits", [3, 16])
def test_neighbours_in_a_large_gallery_are_the_first_of_a_stable_sort(bits: int) -> None:
    """Of three bits hundreds of items tie, and candidates abound; of sixteen there are few."""
    queries, gallery = codes(6, bits), codes(5_003, bits, 1)
    distances = hamming_distances(pack_codes(queries), pack_codes(gallery))
    order = distances.sort(dim=1, stable=True)
    for number in (1, 10, 900, 5_003):
        found = nearest_codes(queries, gallery, number)
        assert torch.equal(found.indices, order.indices[:, :number])
        assert torch.equal(found.distances, order.values[:, :number])


@pytest.mark.usefixtures("_route")
def test_the_reference_ranking_knows_nothing_of_shared_zeros() -> None:
    query = torch.tensor([[True, False, False, False]])
    gallery = torch.tensor([[True, True, True, True], [True, False, False, False]])
    assert nearest_codes(query, gallery, 1).indices.tolist() == [[1]]
    tied = nearest_codes(query, gallery, 2, "reference")
    assert tied.indices.tolist() == [[0, 1]]
    assert tied.distances.tolist() == [[3, 3]]


@pytest.mark.usefixtures("as_users_run_it")
def test_packed_codes_of_other_lengths_are_refused() -> None:
    some = torch.zeros(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="17 bits take 3 bytes, got 1 bytes"):
        unpack_codes(pack_codes(some), 17)
    with pytest.raises(ValueError, match="one code length, got 1 and 2 bytes"):
        hamming_distances(pack_codes(some), pack_codes(codes(2, 9)))
    with pytest.raises(ValueError, match=r"codes must be bits.*got torch.int64"):
        pack_codes(some.long())
    with pytest.raises(ValueError, match="between 1 and the size of the gallery, 3, got 4"):
        nearest_codes(some, some, 4)
