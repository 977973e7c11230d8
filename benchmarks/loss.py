"""Loss: the tiled log-sum-exp of NAC's mixture against the plain one, in time and memory.

Codes of 128 bits, both views of B images among themselves and, where it says so, a queue that gets no gradient;
value and gradient, forwards and backwards.
"""

from collections.abc import Callable

import torch
from torch import Tensor

import page
from nacgen.functional.log_sum_exp import tiled_log_sum_exp
from timing import Row, Size, agree, in_turns, peak_memory

CODE_DIM = 128
Form = Callable[[Tensor, Tensor], Tensor]


def plain(rows: Tensor, keys: Tensor) -> Tensor:
    """All products at once."""
    return torch.logsumexp(rows @ keys.T, dim=1)


def codes(n: int, queue: int = 0) -> tuple[Tensor, Tensor]:
    """Received codes times kappa, with a gradient, and the queue."""
    draw = torch.Generator().manual_seed(n)
    rows = 0.3 * torch.tanh(torch.randn(n, CODE_DIM, generator=draw))  # no key outweighs all others
    return rows.requires_grad_(), torch.randn(queue, CODE_DIM, generator=draw).sign()


def descend(form: Form, rows: Tensor, queue: Tensor) -> Tensor:
    """Values and gradients in one tensor, `(n, 1 + k)`."""
    values = form(rows, torch.cat([rows, queue]))
    (gradient,) = torch.autograd.grad(values.sum(), rows)
    return torch.cat([values.detach()[:, None], gradient], dim=1)


def time(size: Size) -> list[Row]:
    """At B = 1k, where nothing is to be lost."""
    b = size.of(16, 1024, 1024)
    rows, queue = codes(2 * b)

    def theirs() -> Tensor:
        return descend(plain, rows, queue)

    def ours() -> Tensor:
        return descend(tiled_log_sum_exp, rows, queue)

    there, here = theirs(), ours()
    scale = there.abs().amax(0)
    return [
        in_turns(
            f"value and gradient, B = {b:,}",
            "plain form",
            theirs,
            ours,
            size.turns,
            agreement=agree(there / scale, here / scale, 1e-5, "relative values and gradients"),
            calls=size.of(1, 3, 5),
            at_least=1 / 1.1,
        )
    ]


def queue(size: Size) -> list[Row]:
    """Memory of a large batch with a queue; the plain form's is counted where it would not fit."""
    b, queue_size = size.of((256, 2048), (1024, 16_384), (4096, 65_536))
    rows, keys = codes(2 * b, queue_size)
    ours = peak_memory(lambda: descend(tiled_log_sum_exp, rows, keys))
    products = 2 * b * (2 * b + queue_size) * 4 / 1e6
    theirs, peer = 2 * products, "plain form, two matrices counted"
    if products < 1000:  # backwards it holds the products and their shares
        theirs, peer = peak_memory(lambda: descend(plain, rows, keys)), "plain form"
    target = size.of(None, None, 15.0)
    what = f"memory, B = {b:,} and {queue_size:,} keys in the queue"
    return [Row(what=what, peer=peer, ours=[ours], theirs=[theirs], unit="MB", at_least=target)]


PARTS = {"time": time, "queue": queue}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS)
