"""Log-sum-exp over the inner products of many rows with many keys, in memory linear in both.

Contrastive losses and the mixture of Neural Activation Coding need `log sum_j exp(x_i . y_j + b_j)`. All products
take gigabytes for a large batch with a queue. The tiled form adds blocks of them on the logarithmic scale, where
nothing overflows, and computes each block again in the backward pass.

Source:
    Milakov & Gimelshein 2018, arXiv:1805.02867, for the running maximum; Cheng et al. 2024, arXiv:2410.17243,
    for contrastive losses in tiles. Differs from the latter: blocks are added with their maximum taken out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST_MATRIX = 2**22  # products; both views of 1,024 images among themselves, 16 MiB
TILE = 1024  # rows and keys of a block on a CPU, 4 MiB, which its cache holds; a GPU takes 4 times as many


def log_sum_exp(
    rows: Float[Tensor, "m k"],
    keys: Float[Tensor, "n k"],
    bias: Float[Tensor, " n"] | None = None,
    temperature: float = 1.0,
    own_start: int | None = None,
) -> Float[Tensor, " m"]:
    """Compute `log sum_j exp(rows_i . keys_j / temperature + bias_j)` for each row.

    Up to `LARGEST_MATRIX` products are held at once. For more, the result is that of `tiled_log_sum_exp`,
    equal up to rounding. With `own_start`, row `i` leaves out key `own_start + i`.

    Example:
        >>> log_sum_exp(torch.zeros(1, 4), torch.zeros(3, 4)).exp()
        tensor([3.])
    """
    if len(rows) * len(keys) > LARGEST_MATRIX:
        return tiled_log_sum_exp(rows / temperature, keys, bias, own_start)
    products = rows @ keys.T  # (m, k), (n, k) -> (m, n)
    if temperature != 1:
        products = products / temperature
    if bias is not None:
        products = products + bias
    if own_start is not None:
        own = torch.zeros_like(products, dtype=torch.bool)
        own.diagonal(own_start).fill_(True)
        products = products.masked_fill(own, -torch.inf)
    return torch.logsumexp(products, dim=1)


def tiled_log_sum_exp(
    rows: Float[Tensor, "m k"],
    keys: Float[Tensor, "n k"],
    bias: Float[Tensor, " n"] | None = None,
    own_start: int | None = None,
    tile: int | None = None,
) -> Float[Tensor, " m"]:
    """Compute `log_sum_exp` at temperature 1, one block of products at a time, forward and backward.

    Arguments are those of `log_sum_exp`; `tile` is the number of rows and keys of a block, by default `TILE`,
    and 4 times as many on a GPU. The result can be differentiated once.

    Example:
        >>> tiled_log_sum_exp(torch.zeros(1, 4), torch.zeros(3, 4), tile=2).exp()
        tensor([3.])
    """
    if tile is None:
        tile = TILE if rows.device.type == "cpu" else 4 * TILE
    sums: Tensor = _TiledLogSumExp.apply(rows, keys, bias, own_start, tile)
    return sums


class _TiledLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, keys: Tensor, bias: Tensor | None, own_start: int | None, tile: int
    ) -> Tensor:
        sums = rows.new_full((len(rows),), -torch.inf)
        for some_rows, _, products in _blocks(rows, keys, bias, own_start, tile):
            sums[some_rows] = torch.logaddexp(sums[some_rows], products.logsumexp(dim=1))
        ctx.save_for_backward(rows, keys, bias, sums)
        ctx.own_start, ctx.tile = own_start, tile
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # d sums_i / d rows_i = sum_j p_ij keys_j with p_ij = exp(products_ij - sums_i), and so on
        rows, keys, bias, sums = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        of_rows, of_keys, of_bias = (
            torch.zeros_like(x) if want else None
            for x, want in zip((rows, keys, bias), wanted, strict=True)
        )
        weighted = rows * rearrange(gradient, "m -> m 1")
        for some_rows, some_keys, products in _blocks(rows, keys, bias, ctx.own_start, ctx.tile):
            weights = products.sub_(rearrange(sums[some_rows], "m -> m 1")).exp_()
            if of_rows is not None:
                of_rows[some_rows].addmm_(weights, keys[some_keys])
            if of_keys is not None:
                of_keys[some_keys].addmm_(weights.T, weighted[some_rows])
            if of_bias is not None:
                of_bias[some_keys].addmv_(weights.T, gradient[some_rows])
        if of_rows is not None:
            of_rows.mul_(rearrange(gradient, "m -> m 1"))
        return of_rows, of_keys, of_bias, None, None


def _blocks(
    rows: Tensor, keys: Tensor, bias: Tensor | None, own_start: int | None, tile: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield blocks of `rows @ keys.T + bias`, each with its rows and its keys."""
    for i in range(0, len(rows), tile):
        for j in range(0, len(keys), tile):
            some_rows, some_keys = slice(i, i + tile), slice(j, j + tile)
            left, right = rows[some_rows], keys[some_keys]
            products = (
                left @ right.T if bias is None else torch.addmm(bias[some_keys], left, right.T)
            )
            if own_start is not None and -len(left) < (offset := own_start + i - j) < len(right):
                products.diagonal(offset).fill_(-torch.inf)
            yield some_rows, some_keys, products
