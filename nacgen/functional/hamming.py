"""Binary codes: packing, Hamming distances, nearest neighbors, and the number of items at each distance.

On a CPU distances are counts of the bits set in `q XOR g`, 64 at a time. On other devices they come from a matrix
product of -1 and +1, `d = (k - <q, g>) / 2`, which is exact in float32. On a CPU, blocks of pairs fit its cache,
and as many threads as torch has look for nearest neighbors; where faiss is installed, it does, with equal results.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int16, Int64, UInt8
from torch import Tensor

T = TypeVar("T")
Ranking = Literal["hamming", "reference"]
Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (q, _), (n, _) -> (q, n)

# Pairs, or bins, that fit into a cache as words, and that torch starts no threads for.
CPU_BLOCK = 2**15
CPU_BLOCK_OF_BYTES = 2**20  # pairs that fit into a cache as bytes
DEVICE_BLOCK = 2**25  # the same on other devices
NUM_GROUPS = 512  # smallest number of groups that bound the nearest items of a query
MAX_CODE_DIM = 2**15 - 1  # of distances in int16


class Neighbors(NamedTuple):
    """Gallery items of each query, nearest first, equal distances in the order of gallery indices."""

    indices: Int64[Tensor, "q m"]
    distances: Int16[Tensor, "q m"]


def pack_codes(codes: Bool[Tensor, "n k"]) -> UInt8[Tensor, "n bytes"]:
    """Pack eight bits into a byte, the first bit as the most significant, as `numpy.packbits` does.

    A code takes `ceil(k / 8)` bytes; the bits that are left over are zero.

    Raises:
        ValueError: If the codes are not boolean, or have no bits.

    Example:
        >>> pack_codes(torch.tensor([[True, False, True]]))
        tensor([[160]], dtype=torch.uint8)
    """
    _check_codes("codes", codes)
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 8))
    bits = rearrange(padded, "n (bytes bit) -> n bytes bit", bit=8)
    powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=codes.device)
    return (bits * powers).sum(2, dtype=torch.uint8)


def nearest_codes(
    query_codes: Bool[Tensor, "q k"],
    gallery_codes: Bool[Tensor, "n k"],
    num_neighbors: int,
    ranking: Ranking = "hamming",
) -> Neighbors:
    """Find the nearest gallery items of each query by a ranking of `nacgen.functional.hashing.distance_counts`.

    On a CPU under Linux, Hamming neighbors come from faiss if the extra `retrieval` is installed, and are the same
    without it.

    Raises:
        ValueError: If the gallery has fewer items than asked for, or if codes are invalid.

    Example:
        >>> codes = torch.tensor([[True, True], [False, False]])
        >>> nearest_codes(codes, codes, 2).distances.tolist()
        [[0, 2], [0, 2]]
    """
    if not 1 <= num_neighbors <= len(gallery_codes):
        raise ValueError(
            f"num_neighbors must lie between 1 and the size of the gallery, {len(gallery_codes)}, got "
            f"{num_neighbors}. Ask for fewer."
        )
    pairs = CodePairs(query_codes, gallery_codes, ranking)
    is_cpu = query_codes.device.type == "cpu"
    if is_cpu and ranking == "hamming" and _has_faiss():
        return _nearest_by_faiss(pairs._queries, pairs._gallery, num_neighbors)
    nearest = _nearest_bounded if is_cpu else _nearest_selected
    found = pairs.each_block(
        lambda rows, distances: nearest(distances, num_neighbors),
        torch.get_num_threads() if is_cpu else 1,
    )
    return Neighbors(*(torch.cat(part) for part in zip(*found, strict=True)))


class CodePairs:
    """All pairs of a query and a gallery item, whose distances are computed block by block.

    Rankings, and errors for codes that do not fit, are those of `nacgen.functional.hashing.distance_counts`.
    """

    def __init__(
        self,
        query_codes: Bool[Tensor, "q k"],
        gallery_codes: Bool[Tensor, "n k"],
        ranking: Ranking = "hamming",
    ) -> None:
        for name, codes in (("query_codes", query_codes), ("gallery_codes", gallery_codes)):
            _check_codes(name, codes)
        code_dim = query_codes.shape[1]
        if gallery_codes.shape[1] != code_dim:
            raise ValueError(
                f"query_codes and gallery_codes must have one code length, got {code_dim} and "
                f"{gallery_codes.shape[1]} bits. Take both from the same encoder."
            )
        if ranking not in ("hamming", "reference"):
            raise ValueError(f"ranking must be hamming or reference, got {ranking!r}.")
        self._num_bins = code_dim + 1
        self._is_cpu = query_codes.device.type == "cpu"
        self._block = CPU_BLOCK if self._is_cpu else DEVICE_BLOCK
        prepare = _counted if self._is_cpu else _multiplied
        self._queries, self._gallery, self._distance = prepare(query_codes, gallery_codes, ranking)

    def each_block(self, work: Callable[[slice, Tensor], T], num_threads: int = 1) -> list[T]:
        """Return results of `work` on each block of queries and its distances from the gallery, `(rows, n)`."""
        size = CPU_BLOCK_OF_BYTES if self._is_cpu else DEVICE_BLOCK
        blocks = _slices(len(self._queries), size // len(self._gallery))

        def run(rows: slice) -> T:
            return work(rows, self._distance(self._queries[rows], self._gallery))

        if num_threads == 1 or len(blocks) == 1:
            return list(map(run, blocks))
        with ThreadPoolExecutor(num_threads) as pool:
            return list(pool.map(run, blocks))

    def histograms(
        self, rows: Int64[Tensor, " r"], items: Int64[Tensor, " m"]
    ) -> Int64[Tensor, "r d"]:
        """Count the gallery items with the given indices at distances 0 to `k` from the queries of some rows."""
        queries = self._queries.index_select(0, rows)
        gallery = self._gallery.index_select(0, items)
        num_bins = self._num_bins
        if len(gallery) == 0:
            return torch.zeros(len(rows), num_bins, dtype=torch.int64, device=gallery.device)
        tiles = gallery.split(self._block)

        def count(block: slice) -> Tensor:
            part = queries[block]
            first = num_bins * torch.arange(len(part), dtype=torch.int32, device=gallery.device)
            counts = []
            for tile in tiles:
                bins = self._distance(part, tile)
                if len(part) > 1:
                    bins = bins + rearrange(first, "q -> q 1")
                counts.append(torch.bincount(bins.view(-1), minlength=len(part) * num_bins))
            return torch.stack(counts).sum(0).view(-1, num_bins)

        # One after another: own threads beside those of torch took half as long again on two cores.
        blocks = _slices(len(queries), self._block // max(len(gallery), num_bins))
        return torch.cat([count(rows) for rows in blocks])


def _slices(length: int, step: int) -> list[slice]:
    """Return consecutive slices of `step` items, or one by one if that is less."""
    step = max(1, step)
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _counted(
    query_codes: Tensor, gallery_codes: Tensor, ranking: Ranking
) -> tuple[Tensor, Tensor, Distance]:
    """Return codes as words of 64 bits, and a function that counts bits: in uint8 if they fit, else int16."""
    combine = np.bitwise_xor if ranking == "hamming" else np.bitwise_and
    code_dim = query_codes.shape[1]
    dtype = np.uint8 if code_dim < 256 else np.int16

    def distance(queries: Tensor, gallery: Tensor) -> Tensor:
        total = np.empty((len(queries), len(gallery)), dtype)
        (q, g), *others = zip(
            _unsigned(queries).T[..., None], np.ascontiguousarray(_unsigned(gallery).T), strict=True
        )
        for columns in _slices(len(g), 2 * CPU_BLOCK):
            blocks = _slices(len(q), 2 * CPU_BLOCK // len(g))
            memory = np.empty_like(total[blocks[0], columns], np.uint64)  # new memory is slow
            for rows in blocks:
                part = total[rows, columns]
                bits = memory[: len(part)]
                np.bitwise_count(combine(q[rows], g[columns], out=bits), out=part)
                for more_q, more_g in others:
                    part += np.bitwise_count(combine(more_q[rows], more_g[columns], out=bits))
        return torch.from_numpy(total if ranking == "hamming" else dtype(code_dim) - total)

    return _words(query_codes), _words(gallery_codes), distance


def _multiplied(
    query_codes: Tensor, gallery_codes: Tensor, ranking: Ranking
) -> tuple[Tensor, Tensor, Distance]:
    """Return codes as numbers, and a function that multiplies them in exact steps of 1/2, to int32."""
    if ranking == "hamming":
        queries, gallery = query_codes.float() - 0.5, 1 - 2 * gallery_codes.float()
        offset = query_codes.shape[1] / 2
    else:
        queries, gallery = query_codes.float(), -gallery_codes.float()
        offset = float(query_codes.shape[1])

    def distance(queries: Tensor, gallery: Tensor) -> Tensor:
        with torch.autocast(gallery.device.type, enabled=False):
            return (queries @ gallery.T + offset).to(torch.int32)

    return queries, gallery, distance


def _words(codes: Tensor) -> Tensor:
    """Return codes as integers of 64 bits, `(n, k)` -> `(n, words)`."""
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 64))
    return torch.from_numpy(np.packbits(padded.numpy(), axis=1)).view(torch.int64)


def _unsigned(words: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """Return the same memory as unsigned numbers; of signed ones NumPy counts the absolute value's bits."""
    return words.numpy().view(np.uint64)


def _has_faiss() -> bool:
    """Return True where faiss can be used; beside torch on macOS, its OpenMP ends the process."""
    return sys.platform == "linux" and find_spec("faiss") is not None


def _nearest_by_faiss(queries: Tensor, gallery: Tensor, num_neighbors: int) -> Neighbors:
    """Return the items nearest to each query, as words; of equal distances faiss puts the first first."""
    import faiss

    index = faiss.IndexBinaryFlat(64 * gallery.shape[1])
    index.add(gallery.numpy().view(np.uint8))
    num_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        distances, indices = index.search(queries.numpy().view(np.uint8), num_neighbors)
    finally:
        faiss.omp_set_num_threads(num_threads)
    return Neighbors(torch.from_numpy(indices), torch.from_numpy(distances.astype(np.int16)))


def _nearest_bounded(distances: Tensor, num_neighbors: int) -> Neighbors:
    """Return the nearest items of each row, in NumPy, sorting only a few candidates.

    The `m`-th smallest of the minima of `m` groups or more is a bound of the `m`-th smallest distance of all.
    """
    num_rows, num_items = distances.shape
    values = distances.numpy()
    group_size = max(1, num_items // max(NUM_GROUPS, 8 * num_neighbors))
    num_groups = num_items // group_size
    groups = values[:, : group_size * num_groups].reshape(num_rows, group_size, num_groups)
    least = np.partition(groups.min(axis=1), num_neighbors - 1, axis=1)
    is_candidate = values <= least[:, num_neighbors - 1, None]
    row, column = np.divmod(np.flatnonzero(is_candidate), num_items)
    order = np.argsort(row * (MAX_CODE_DIM + 1) + values[row, column], kind="stable")
    start = np.searchsorted(row, np.arange(num_rows))
    indices = column[order[start[:, None] + np.arange(num_neighbors)]]
    found = np.take_along_axis(values, indices, axis=1).astype(np.int16)
    return Neighbors(torch.from_numpy(indices), torch.from_numpy(found))


def _nearest_selected(distances: Tensor, num_neighbors: int) -> Neighbors:
    """Return the nearest items of each row on any device, by keys of which no two are equal."""
    num_items = distances.shape[1]
    keys = distances.long() * num_items + torch.arange(num_items, device=distances.device)
    indices = keys.topk(num_neighbors, dim=1, largest=False).indices
    return Neighbors(indices, distances.gather(1, indices).to(torch.int16))


def _check_codes(name: str, codes: Tensor) -> None:
    if codes.dtype != torch.bool:
        raise ValueError(
            f"{name} must be bits, torch.bool, got {codes.dtype}. Threshold logits at zero: logits >= 0."
        )
    if codes.ndim != 2 or 0 in codes.shape or codes.shape[1] > MAX_CODE_DIM:
        raise ValueError(
            f"{name} must be (n, k), codes of 1 to {MAX_CODE_DIM} bits, got {tuple(codes.shape)}. Give some."
        )
