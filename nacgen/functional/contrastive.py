"""Contrastive losses on the directions of projections: NT-Xent (SimCLR) and InfoNCE with a queue (MoCo).

Both are cross-entropies, in nats, of finding an image's other view among all keys by cosine similarity over a
temperature. With `n` keys, `log n - loss` is a lower bound of the mutual information of the two views.

Source:
    Chen et al. 2020, arXiv:2002.05709; He et al. 2020, arXiv:1911.05722; van den Oord et al. 2018,
    arXiv:1807.03748 (the bound).
"""

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from nacgen.functional.log_sum_exp import log_sum_exp

SHORTEST = 1e-12  # vectors with no larger component have no direction and count as zero


def directions(rows: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """Divide finite rows by their Euclidean length, at any size that the dtype can hold.

    A row of zeros stays zero, and its gradient stays finite.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6..., 0.8...], [0.0, 0.0]]
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
    """Compute the normalized, temperature-scaled cross-entropy of finding each row's other view.

    There is one loss per row in nats, `log(n - 1)` if all directions are equal: the row itself is left out.

    `projections` are the first views of `m / 2` images, then their second views in the same order. Other views are
    sought, with gradient, among `all_projections`, of all processes; the own begin at `own_start`, rank times `m`.

    Raises:
        ValueError: If the rows are not two views of two images or more, or if an argument does not fit them.

    Example:
        >>> nt_xent(torch.ones(4, 8)).exp()
        tensor([3.0000, 3.0000, 3.0000, 3.0000])

    Source: Chen et al. 2020, arXiv:2002.05709, equation 1.
    """
    _check_temperature(temperature)
    m = len(projections)
    keys = projections if all_projections is None else all_projections
    if m % 2 or m == 0 or len(keys) < 4:
        raise ValueError(
            f"projections must be two views, of two images or more in all, got {m} rows among {len(keys)}. "
            "Stack [view_1; view_2]."
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
    """Compute the cross-entropy of finding each query's key among itself and a queue of earlier keys.

    Positive keys are those of the images' other view, by a momentum encoder; the queue holds keys of earlier
    images. There is one loss per query in nats, `log(q + 1)` if all rows have the same direction.

    Raises:
        ValueError: If shapes differ, the queue is empty, or the temperature is not above zero.

    Example:
        >>> info_nce(torch.ones(1, 8), torch.ones(1, 8), torch.ones(3, 8)).exp()
        tensor([4.])

    Source: He et al. 2020, arXiv:1911.05722, equation 1.
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
