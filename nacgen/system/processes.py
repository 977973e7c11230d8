"""Dividing work among the processes of a run, and gathering what each of them found."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Int64
from torch import Tensor

from nacgen import errors

CPU = torch.device("cpu")
MESSAGE_BYTES = 2048


def gather_parts(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, of one shape and dtype, in the order of their ranks.

    Every process must call it. Without a process group it returns `tensor` alone.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [tensor]
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        return torch.cat(gather_parts(rows))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # others may hold it, too
        dist.all_reduce(gradient)  # every process's loss depends on every row
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes in the order of their ranks, `(m, k) -> (m * processes, k)`, with gradient.

    The gradient of a row is the sum over the losses of all processes. (`accelerator.gather` has no gradient, and
    torch's own differentiable gather has changed its name twice.) All processes must have the same `m`.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


@runtime_checkable
class ProcessInfo(Protocol):
    """The part of an `Accelerator` that is needed here; a `PartialState` has it, too."""

    @property
    def process_index(self) -> int:
        """Return the rank of this process."""

    @property
    def num_processes(self) -> int:
        """Return the world size."""

    @property
    def device(self) -> torch.device:
        """Return the device of this process."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run, as one of them sees them; sums are kept and exchanged on `device`.

    Example:
        >>> processes = Processes(process_index=1, num_processes=3)
        >>> processes.take(torch.arange(8))
        tensor([1, 4, 7])
    """

    process_index: int = 0
    num_processes: int = 1
    device: torch.device = CPU

    @classmethod
    def of(cls, accelerator: ProcessInfo | None) -> Self:
        """Return the processes of an accelerator; a single process without one."""
        if accelerator is None:
            return cls()
        has_float64 = accelerator.device.type != "mps"
        return cls(
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            device=accelerator.device if has_float64 else CPU,
        )

    def take(self, indices: Int64[Tensor, " n"]) -> Int64[Tensor, " m"]:
        """Return the indices of this process: every `num_processes`-th."""
        return indices[self.process_index :: self.num_processes]

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """Return the rows of all processes, in the order of the `n` indices that `take` divided."""
        if self.num_processes == 1:
            return rows
        padded = rows.new_zeros(-(-n // self.num_processes), *rows.shape[1:])
        padded[: len(rows)] = rows
        return rearrange(gather_parts(padded), "p m ... -> (m p) ...")[:n]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, added in the order of their ranks."""
        return tensor if self.num_processes == 1 else torch.stack(gather_parts(tensor)).sum(dim=0)

    def agree(self, is_true: bool) -> bool:
        """Return True if the argument is true on every process."""
        return bool(self.sum(torch.tensor(int(is_true), device=self.device)) == self.num_processes)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Run a block that exchanges nothing; if it fails on one process, every process raises.

        The error is that of the first process that had one: itself there, an equal one on the others.
        """
        if self.num_processes == 1:
            yield
            return
        own = None
        try:
            yield
        except Exception as error:
            own = error
        if self.agree(own is None):
            return
        content = encode_error(own)[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0")
        message = torch.tensor(list(content), dtype=torch.uint8)
        gathered = self.gather(message[None].to(self.device), self.num_processes).cpu()
        rank = int(gathered.any(dim=1).nonzero()[0])
        if own is not None and rank == self.process_index:
            raise own
        text = gathered[rank]
        raise decode_error(rank, bytes(text[text != 0].tolist())) from own


def encode_error(error: Exception | None) -> bytes:
    """Return an error as bytes that `decode_error` understands; none for no error."""
    if error is None:
        return b""
    kind = "StorageError" if errors.is_storage_failure(error) else type(error).__name__
    return f"{kind}\n{error}".encode()


def decode_error(rank: int, encoded: bytes) -> Exception:
    """Return the error of the process `rank`, of the same class if it is the library's, else a `RuntimeError`."""
    name, _, message = encoded.decode(errors="replace").partition("\n")
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.NacgenError)):
        kind = RuntimeError
    return kind(f"process {rank} stopped with {name}: {message}")
