"""Collectives that losses need."""

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # others may hold it, too
        dist.all_reduce(gradient)  # every process's loss depends on every row
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, with gradient.

    The gradient of a row is the sum over the losses of all processes. (`accelerator.gather` has none;
    torch's own differentiable gather has changed its name twice.)

    Args:
        rows: `(m, k)`, equally many on every process.

    Returns:
        `(m * processes, k)`; `rows` itself on a single process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered
