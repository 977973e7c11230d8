"""Binary codes: packing, Hamming distances, and how many relevant items lie at each distance.

Distances of `k` bits take `k + 1` values, so many gallery items tie. What a ranking is worth is then decided
by its counts per distance alone, see `nacgen.functional.ranking`; nothing has to be sorted.

On a CPU distances are counts of the bits set in `q XOR g`, 64 at a time. On other devices they come from a matrix
product of -1 and +1, `d = (k - <q, g>) / 2`, which is exact in float32.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float64, Int16, Int64, UInt8
from torch import Tensor

from nacgen.functional.ranking import DistanceCounts, ordered_average_precision

Ranking = Literal["hamming", "reference"]
Labels: TypeAlias = Int64[Tensor, " _"] | Bool[Tensor, "_ c"]  # one row an image

CHUNK = 2**19  # pairs of codes, or bins, held at a time
MAX_CODE_DIM = 2**15 - 1  # of distances in int16


class Neighbours(NamedTuple):
    """Gallery items of each query, nearest first, equal distances by gallery index."""

    indices: Int64[Tensor, "q m"]
    distances: Int16[Tensor, "q m"]


def pack_codes(codes: Bool[Tensor, "n k"]) -> UInt8[Tensor, "n bytes"]:
    """Eight bits in a byte, the first bit the most significant, as `numpy.packbits` does.

    Args:
        codes: Any number of bits.

    Returns:
        `ceil(k / 8)` bytes a code; bits that are left over are zero.

    Raises:
        ValueError: The codes are not boolean, or have no bits.
    """
    _check_codes("codes", codes)
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 8))
    bits = rearrange(padded, "n (bytes bit) -> n bytes bit", bit=8)
    return (bits * _powers(codes.device)).sum(2, dtype=torch.uint8)


def unpack_codes(packed: UInt8[Tensor, "n bytes"], code_dim: int) -> Bool[Tensor, "n k"]:
    """The inverse of `pack_codes`.

    Args:
        packed: What `pack_codes` gave.
        code_dim: Bits in a code, `k`.

    Returns:
        The codes.

    Raises:
        ValueError: So many bits do not take up so many bytes.
    """
    if not 0 <= 8 * packed.shape[1] - code_dim < 8:
        raise ValueError(
            f"{code_dim} bits take {-(-code_dim // 8)} bytes, got {packed.shape[1]} bytes a code. Give the "
            "code_dim of the codes that were packed."
        )
    bits = (rearrange(packed, "n bytes -> n bytes 1") & _powers(packed.device)) != 0
    return rearrange(bits, "n bytes bit -> n (bytes bit)")[:, :code_dim]


def hamming_distances(
    queries_packed: UInt8[Tensor, "q bytes"], gallery_packed: UInt8[Tensor, "n bytes"]
) -> Int16[Tensor, "q n"]:
    """In how many bits each query differs from each gallery item.

    Beside the result, two bytes a pair, it holds little memory; give fewer queries to bound the result.

    Args:
        queries_packed: From `pack_codes`.
        gallery_packed: The same, of as many bits.

    Returns:
        0 to the number of bits.

    Raises:
        ValueError: Code lengths differ, or codes are longer than 32,767 bits.
    """
    code_dim = 8 * queries_packed.shape[1]  # bits that are left over are equal
    if gallery_packed.shape[1] != queries_packed.shape[1]:
        raise ValueError(
            f"queries and gallery must have one code length, got {queries_packed.shape[1]} and "
            f"{gallery_packed.shape[1]} bytes. Take both from the same encoder."
        )
    queries, gallery = (
        unpack_codes(queries_packed, code_dim),
        unpack_codes(gallery_packed, code_dim),
    )
    distances = torch.empty(len(queries), len(gallery), dtype=torch.int16, device=queries.device)
    for rows, chunk in _distance_chunks(queries, gallery, "hamming"):
        distances[rows] = chunk.to(torch.int16)
    return distances


def is_relevant(query_labels: Labels, gallery_labels: Labels) -> Bool[Tensor, "q n"]:
    """Whether a gallery item is what a query looks for: an equal class, or any shared label.

    Args:
        query_labels: Classes `(q,)` from 0, or multi-hot `(q, c)`.
        gallery_labels: The same kind.

    Returns:
        True where it is.

    Raises:
        ValueError: The two are of different kinds or numbers of labels, or a class is below zero.
    """
    _check_labels(query_labels, gallery_labels)
    if query_labels.ndim == 1:
        return rearrange(query_labels, "q -> q 1") == gallery_labels
    return query_labels.float() @ gallery_labels.float().T > 0


def distance_counts(
    query_codes: Bool[Tensor, "q k"],
    query_labels: Labels,
    gallery_codes: Bool[Tensor, "n k"],
    gallery_labels: Labels,
    ranking: Ranking = "hamming",
) -> DistanceCounts:
    """How many gallery items, and how many relevant ones, each query has at each distance.

    `"reference"` ranks as the authors of Neural Activation Coding did, by the number of ones that two codes
    share; the "distance" is `k` less that number. It knows nothing of shared zeros, and is there for
    comparison only.

    Args:
        query_codes: One row a query.
        query_labels: Classes or multi-hot labels, see `is_relevant`.
        gallery_codes: One row an item.
        gallery_labels: The same kind.
        ranking: `"hamming"` or `"reference"`.

    Returns:
        Counts at distances 0 to `k`.

    Raises:
        ValueError: Codes or labels are missing, of unequal length or of the wrong kind, or the ranking is
            unknown.
    """
    _check_labelled(query_codes, query_labels, gallery_codes, gallery_labels)
    num_bins = query_codes.shape[1] + 1
    counts = torch.empty(
        2, len(query_codes), num_bins, dtype=torch.int64, device=query_codes.device
    )
    for rows, distances in _distance_chunks(query_codes, gallery_codes, ranking):
        num_rows = len(distances)
        # one bin for each (query, relevant or not, distance)
        first = torch.arange(num_rows, dtype=torch.int32, device=distances.device) * 2 * num_bins
        bins = distances.add_(rearrange(first, "q -> q 1"))
        bins.add_(is_relevant(query_labels[rows], gallery_labels), alpha=num_bins)
        filled = torch.bincount(bins.flatten(), minlength=2 * num_bins * num_rows)
        counts[:, rows] = rearrange(filled, "(q r d) -> r q d", q=num_rows, r=2)
    irrelevant, relevant = counts
    return DistanceCounts(relevant, irrelevant + relevant)


def stable_average_precision(
    query_codes: Bool[Tensor, "q k"],
    query_labels: Labels,
    gallery_codes: Bool[Tensor, "n k"],
    gallery_labels: Labels,
    top: int | None = None,
    ranking: Ranking = "hamming",
) -> Float64[Tensor, " q"]:
    """Average precision of the ranking in which equal distances are ordered by gallery index.

    It depends on the order of the gallery; `nacgen.functional.ranking.average_precision` does not.

    Args:
        query_codes: One row a query.
        query_labels: Classes or multi-hot labels, see `is_relevant`.
        gallery_codes: One row an item.
        gallery_labels: The same kind.
        top: Only so many first items count. Absent: all.
        ranking: As in `distance_counts`.

    Returns:
        0 to 1, as `nacgen.functional.ranking.ordered_average_precision`.

    Raises:
        ValueError: As `distance_counts`, or `top` is below one.
    """
    _check_labelled(query_codes, query_labels, gallery_codes, gallery_labels)
    values = []
    for rows, distances in _distance_chunks(query_codes, gallery_codes, ranking):
        relevant = is_relevant(query_labels[rows], gallery_labels)
        in_order = relevant.gather(1, _stable_order(distances))
        values.append(ordered_average_precision(in_order, top))
    return torch.cat(values)


def nearest_codes(
    query_codes: Bool[Tensor, "q k"],
    gallery_codes: Bool[Tensor, "n k"],
    num_neighbours: int,
    ranking: Ranking = "hamming",
) -> Neighbours:
    """The nearest gallery items of each query.

    Args:
        query_codes: One row a query.
        gallery_codes: One row an item.
        num_neighbours: Items for each query, `m`, at most the gallery.
        ranking: As in `distance_counts`.

    Returns:
        Their indices and distances.

    Raises:
        ValueError: There are fewer items than asked for, or as `distance_counts`.
    """
    if not 1 <= num_neighbours <= len(gallery_codes):
        raise ValueError(
            f"num_neighbours must lie between 1 and the size of the gallery, {len(gallery_codes)}, got "
            f"{num_neighbours}. Ask for fewer."
        )
    found = []
    for _, distances in _distance_chunks(query_codes, gallery_codes, ranking):
        order = _stable_order(distances)[:, :num_neighbours]
        found.append((order, distances.gather(1, order).to(torch.int16)))
    indices, nearest = (torch.cat(part) for part in zip(*found, strict=True))
    return Neighbours(indices, nearest)


def _distance_chunks(
    query_codes: Tensor, gallery_codes: Tensor, ranking: Ranking
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of queries and their distances from the gallery, int32 (rows, n)."""
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
    step = max(1, CHUNK // max(len(gallery_codes), code_dim + 1))
    all_rows = [slice(i, min(i + step, len(query_codes))) for i in range(0, len(query_codes), step)]
    if query_codes.device.type == "cpu":
        return _counted_chunks(query_codes, gallery_codes, ranking, all_rows)
    return _multiplied_chunks(query_codes, gallery_codes, ranking, all_rows)


def _counted_chunks(
    query_codes: Tensor, gallery_codes: Tensor, ranking: Ranking, all_rows: list[slice]
) -> Iterator[tuple[slice, Tensor]]:
    """Distances by counting bits. Each chunk overwrites the one before."""
    queries, gallery = _words(query_codes), _words(gallery_codes)
    shape = (all_rows[0].stop, len(gallery_codes))
    buffer, words = np.empty(shape, dtype=np.int32), np.empty(shape, dtype=np.uint64)
    for rows in all_rows:
        distances, word = buffer[: rows.stop - rows.start], words[: rows.stop - rows.start]
        distances.fill(0)
        for q, g in zip(queries, gallery, strict=True):
            if ranking == "hamming":
                np.bitwise_xor(q[rows, None], g, out=word)
            else:
                np.bitwise_and(q[rows, None], g, out=word)
            distances += np.bitwise_count(word)
        if ranking == "reference":
            np.subtract(query_codes.shape[1], distances, out=distances)
        yield rows, torch.from_numpy(distances)


def _multiplied_chunks(
    query_codes: Tensor, gallery_codes: Tensor, ranking: Ranking, all_rows: list[slice]
) -> Iterator[tuple[slice, Tensor]]:
    """Distances by a matrix product, every step of which is a multiple of 1/2."""
    if ranking == "hamming":
        queries, gallery = query_codes.float() - 0.5, 1 - 2 * gallery_codes.float()
        offset = query_codes.shape[1] / 2
    else:
        queries, gallery = query_codes.float(), -gallery_codes.float()
        offset = float(query_codes.shape[1])
    for rows in all_rows:
        with torch.autocast(gallery.device.type, enabled=False):
            yield rows, (queries[rows] @ gallery.T + offset).to(torch.int32)


def _words(codes: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """Codes as unsigned integers of 64 bits, (n, k) -> (words, n)."""
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[1] % 64))
    return np.ascontiguousarray(pack_codes(padded).numpy().view(np.uint64).T)


def _stable_order(distances: Tensor) -> Tensor:
    """Indices along rows, nearest first, equal distances in the order they came."""
    if distances.device.type != "cpu":
        return distances.argsort(dim=1, stable=True)
    # NumPy sorts integers of 8 and 16 bits by radix, which is 14 times as fast as torch's sort
    narrow = np.uint8 if distances.max() < 256 else np.uint16
    return torch.from_numpy(distances.numpy().astype(narrow).argsort(axis=1, kind="stable"))


def _powers(device: torch.device) -> Tensor:
    return torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=device)


def _check_codes(name: str, codes: Tensor) -> None:
    if codes.dtype != torch.bool:
        raise ValueError(
            f"{name} must be bits, torch.bool, got {codes.dtype}. Threshold logits at zero: logits >= 0."
        )
    if codes.ndim != 2 or 0 in codes.shape or codes.shape[1] > MAX_CODE_DIM:
        raise ValueError(
            f"{name} must be (n, k) with one code or more of 1 to {MAX_CODE_DIM} bits, got "
            f"{tuple(codes.shape)}. Check what the encoder was given."
        )


def _check_labels(query_labels: Tensor | None, gallery_labels: Tensor | None) -> None:
    if query_labels is None or gallery_labels is None:
        missing = "query_labels" if query_labels is None else "gallery_labels"
        raise ValueError(
            f"retrieval needs labels to tell what is relevant, but {missing} is None. Use a dataset with labels."
        )
    for name, labels in (("query_labels", query_labels), ("gallery_labels", gallery_labels)):
        is_class = labels.ndim == 1 and labels.dtype == torch.int64
        if not is_class and not (labels.ndim == 2 and labels.dtype == torch.bool):
            raise ValueError(
                f"{name} must be classes, int64 (n,), or multi-hot, bool (n, c), got {labels.dtype} "
                f"{tuple(labels.shape)}. Convert them."
            )
        if is_class and (labels < 0).any():
            raise ValueError(
                f"{name} must be classes from 0, got {int(labels.min())}, which usually marks images without "
                "a label. Leave those out."
            )
    if query_labels.shape[1:] != gallery_labels.shape[1:]:
        raise ValueError(
            "query_labels and gallery_labels must be of one kind, got shapes "
            f"{tuple(query_labels.shape)} and {tuple(gallery_labels.shape)}. Take both from one dataset."
        )


def _check_labelled(
    query_codes: Tensor, query_labels: Tensor, gallery_codes: Tensor, gallery_labels: Tensor
) -> None:
    _check_labels(query_labels, gallery_labels)
    for name, codes, labels in (
        ("query", query_codes, query_labels),
        ("gallery", gallery_codes, gallery_labels),
    ):
        if len(codes) != len(labels):
            raise ValueError(
                f"each {name} code must have one label, got {len(codes)} codes and {len(labels)} labels. "
                "Take both from the same images."
            )
