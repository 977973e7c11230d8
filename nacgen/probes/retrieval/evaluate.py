"""Retrieval of images of the same class by binary codes: mean average precision and related figures."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from nacgen.errors import DataError
from nacgen.functional.hamming import Ranking
from nacgen.functional.hashing import Labels, distance_counts, stable_average_precision
from nacgen.functional.ranking import (
    average_precision,
    precision_at,
    precision_recall,
    precision_within,
)
from nacgen.probes.retrieval.protocols import RetrievalProtocol

NUM_ITEMS = (1, 10, 100, 1_000)  # at which precision is reported, where the gallery has so many
TOP = 1_000
RADIUS = 2


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision and recall if all pairs up to a distance are retrieved, pooled over queries."""

    distances: tuple[int, ...]  # Hamming distances, rising, from the smallest that occurs
    precision: tuple[float, ...]  # fraction of the retrieved pairs that are relevant
    recall: tuple[float, ...]  # fraction of the relevant pairs that are retrieved


@dataclass(frozen=True)
class RetrievalResult:
    """Figures of retrieval by code, means over all queries."""

    # Expected value over all orders of tied items, over the whole gallery or the first `protocol["top"]` items.
    mean_average_precision: float
    mean_average_precision_stable: float  # the same with ties in the order of the gallery's indices
    # Expected value over the first 1,000 items, None for smaller galleries.
    mean_average_precision_at_1000: float | None
    precision_at: dict[str, float]  # fraction of the first N that are relevant, expected over ties
    # Fraction of the items within Hamming distance 2 that are relevant, 0 if there are none.
    precision_within_radius_2: float
    num_empty_balls: int  # number of queries without items within distance 2
    curve: PrecisionRecallCurve
    # Mean fraction of the gallery that is relevant: the precision of codes without information.
    chance: float
    protocol: dict[str, Any]  # everything that decides the figures apart from the codes


def evaluate_retrieval(
    query_codes: Bool[Tensor, "q k"],
    query_labels: Labels,
    gallery_codes: Bool[Tensor, "n k"],
    gallery_labels: Labels,
    *,
    protocol: RetrievalProtocol | None = None,
    ranking: Ranking = "hamming",
) -> RetrievalResult:
    """Rank the gallery for each query by Hamming distance, and measure the rankings.

    Labels are classes `(q,)`, of which equal ones are relevant, or multi-hot `(q, c)`, of which any common
    one is. Codes are those of the protocol's `query` and `gallery`. A query without a relevant item counts as 0,
    and the record holds their number; if none has one, it is a DataError.

    Example:
        >>> codes, labels = torch.eye(4).bool(), torch.tensor([0, 0, 1, 1])
        >>> evaluate_retrieval(codes, labels, codes, labels).chance
        0.5
    """
    top = None if protocol is None else protocol.top
    codes = query_codes, query_labels, gallery_codes, gallery_labels
    counts, num_gallery = distance_counts(*codes, ranking), len(gallery_codes)
    num_lost = int((counts.relevant.sum(1) == 0).sum())
    if num_lost == len(query_codes):
        raise DataError(
            f"some query needs a relevant item in the gallery, but none of {num_lost} has one. Check that "
            "queries and gallery come from one dataset."
        )
    stable = stable_average_precision(*codes, top, ranking)
    ball, curve = precision_within(counts, RADIUS), precision_recall(counts)
    return RetrievalResult(
        mean_average_precision=_mean(average_precision(counts, top)),
        mean_average_precision_stable=_mean(stable),
        mean_average_precision_at_1000=(
            _mean(average_precision(counts, TOP)) if num_gallery >= TOP else None
        ),
        precision_at={
            str(num): _mean(precision_at(counts, num)) for num in NUM_ITEMS if num <= num_gallery
        },
        precision_within_radius_2=_mean(ball.precision),
        num_empty_balls=int(ball.is_empty.sum()),
        curve=PrecisionRecallCurve(*(tuple(part.tolist()) for part in curve)),
        chance=_mean(counts.relevant.sum(1).double() / num_gallery),
        protocol={
            **{key: getattr(protocol, key, None) for key in ("name", "seed", "fingerprint")},
            "num_queries": len(query_codes),
            "num_gallery": num_gallery,
            "code_dim": query_codes.shape[1],
            "top": top,
            "average_precision_over": "relevant items among those ranked",
            "ranking": ranking,
            "ties": "expected value over all orders",
            "relevant": "equal class" if query_labels.ndim == 1 else "any shared label",
            "num_queries_without_relevant": num_lost,
        },
    )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
