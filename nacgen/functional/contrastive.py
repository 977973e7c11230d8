"""Contrastive losses on the directions of projections: NT-Xent (SimCLR) and InfoNCE with a queue (MoCo).

Both say how hard it is, in nats, to find an image's other view among all keys, given cosine similarities
over a temperature. `log n - loss`, with `n` the keys that a row is compared with, bounds the mutual
information of the two views from below.

Source:
    Chen et al. 2020, arXiv:2002.05709, equation 1; He et al. 2020, arXiv:1911.05722, equation 1;
    van den Oord et al. 2018, arXiv:1807.03748, for the bound.
"""

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from nacgen.functional.log_sum_exp import log_sum_exp

SHORTEST = 1e-12  # vectors with no larger component have no direction and count as zero


def directions(rows: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """Rows divided by their Euclidean length, at any size that the dtype can hold.

    Args:
        rows: Any finite numbers.

    Returns:
        Rows of length 1; a zero row stays zero and its gradient stays finite.
    """
    largest = reduce(rows.detach().abs(), "m d -> m 1", "max")
    has_direction = largest > SHORTEST
    # The direction does not depend on the scale, which keeps the squares from overflowing.
    rows = rows / torch.where(has_direction, largest, 1.0)
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(has_direction, lengths, 1.0)


def nt_xent(
    projections: Float[Tensor, "m d"],
    temperature: float = 0.5,
    all_projections: Float[Tensor, "n d"] | None = None,
    own_start: int = 0,
) -> Float[Tensor, " m"]:
    """Normalised temperature-scaled cross-entropy of finding each row's other view among all other rows.

    The row itself is left out of the sum, unlike in `nacgen.functional.nac`.

    Args:
        projections: First views of `m / 2` images, then their second views in the same order.
        temperature: Divides cosine similarities, above zero.
        all_projections: The rows to find the other view among; those of all processes when training on
            several, with gradient. Must include `projections`. Absent: `projections`.
        own_start: Index in `all_projections` at which `projections` begin: rank times `m`, when the rows of
            each process are gathered in the order of ranks.

    Returns:
        Nats per row, above zero, to be minimised; `log(n - 1)` where all rows point the same way.

    Raises:
        ValueError: Rows are not two views of an image each, or fewer than two images; widths differ;
            `own_start` is out of range; the temperature is not above zero.

    Source:
        Chen et al. 2020, arXiv:2002.05709, equation 1.
    """
    _check_temperature(temperature)
    m = len(projections)
    keys = projections if all_projections is None else all_projections
    if m % 2 or m == 0 or len(keys) < 4:
        raise ValueError(
            f"projections must be two views of each image, of two images or more in all, got {m} rows "
            f"among {len(keys)}. Stack [view_1; view_2]."
        )
    _check_width("all_projections", keys, projections)
    if not 0 <= own_start <= len(keys) - m:
        raise ValueError(
            f"own_start must lie between 0 and {len(keys) - m}, so that {m} own rows fit into {len(keys)}, "
            f"got {own_start}. It is the process's rank times {m}."
        )
    own = directions(projections)
    others = log_sum_exp(own, directions(keys), temperature=temperature, own_start=own_start)
    other_view = own.roll(m // 2, dims=0)
    positive = reduce(own * other_view, "m d -> m", "sum") / temperature
    return others - positive


def info_nce(
    queries: Float[Tensor, "b d"],
    positive_keys: Float[Tensor, "b d"],
    queue_keys: Float[Tensor, "q d"],
    temperature: float = 0.07,
) -> Float[Tensor, " b"]:
    """Cross-entropy of finding each query's key among itself and a queue of earlier keys.

    Args:
        queries: Projections of one view.
        positive_keys: Row `i` is a momentum encoder's projection of the other view of query `i`'s image.
        queue_keys: Projections of other images, from earlier steps; one or more.
        temperature: Divides cosine similarities, above zero.

    Returns:
        Nats per query, above zero, to be minimised; `log(q + 1)` where all rows point the same way.

    Raises:
        ValueError: Shapes differ, the queue is empty, or the temperature is not above zero.

    Source:
        He et al. 2020, arXiv:1911.05722, equation 1.
    """
    _check_temperature(temperature)
    if queries.shape != positive_keys.shape:
        raise ValueError(
            f"queries and positive_keys must have one shape, got {tuple(queries.shape)} and "
            f"{tuple(positive_keys.shape)}. Give each query the other view's key."
        )
    if len(queue_keys) == 0:
        raise ValueError("queue_keys must hold one key or more, got none. Fill the queue first.")
    _check_width("queue_keys", queue_keys, queries)
    own = directions(queries)
    positive = reduce(own * directions(positive_keys), "b d -> b", "sum") / temperature
    negative = log_sum_exp(own, directions(queue_keys), temperature=temperature)
    return torch.logaddexp(positive, negative) - positive


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(
            f"temperature must be above zero, got {temperature}. SimCLR uses 0.5, MoCo 0.07."
        )


def _check_width(name: str, keys: Tensor, rows: Tensor) -> None:
    if keys.shape[1] != rows.shape[1]:
        raise ValueError(
            f"{name} must have the width of the rows they are compared with, {rows.shape[1]}, got "
            f"{keys.shape[1]}. Take both from the same projection head."
        )
