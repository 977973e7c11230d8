"""Images shared among processes: who takes which, and how all learn what each found."""

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


@runtime_checkable
class ProcessInfo(Protocol):
    """What is asked of an `Accelerator`; a `PartialState` has it, too."""

    @property
    def process_index(self) -> int:
        """Of this process."""

    @property
    def num_processes(self) -> int:
        """That work together."""

    @property
    def device(self) -> torch.device:
        """Where this process works."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The part of one process in work that all do.

    Args:
        process_index: Of this process.
        num_processes: That share the work.
        device: Where sums are kept and exchanged.
    """

    process_index: int = 0
    num_processes: int = 1
    device: torch.device = CPU

    @classmethod
    def of(cls, accelerator: ProcessInfo | None) -> Self:
        """The share of this process, all the work where there is no accelerator."""
        if accelerator is None:
            return cls()
        has_float64 = accelerator.device.type != "mps"
        return cls(
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            device=accelerator.device if has_float64 else CPU,
        )

    def take(self, indices: Int64[Tensor, " n"]) -> Int64[Tensor, " m"]:
        """Every `num_processes`-th of all indices."""
        return indices[self.process_index :: self.num_processes]

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """The rows of all processes, in the order of the `n` indices that `take` shared out."""
        if self.num_processes == 1:
            return rows
        padded = rows.new_zeros(-(-n // self.num_processes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.num_processes)]
        dist.all_gather(parts, padded)
        return rearrange(parts, "p m ... -> (m p) ...")[:n]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, added up in their order."""
        if self.num_processes == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.num_processes)]
        dist.all_gather(parts, tensor)
        return torch.stack(parts).sum(dim=0)

    def agree(self, is_true: bool) -> bool:
        """Whether it is true on every process."""
        return bool(self.sum(torch.tensor(int(is_true), device=self.device)) == self.num_processes)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Run a block that exchanges nothing; if it fails anywhere, every process raises.

        Yields:
            Nothing.

        Raises:
            Exception: That of the first process that had one, on all: its own there, a like one elsewhere.
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
        message = torch.zeros(MESSAGE_BYTES, dtype=torch.uint8)
        content = torch.tensor(list(encode_error(own)[:MESSAGE_BYTES]), dtype=torch.uint8)
        message[: len(content)] = content
        gathered = self.gather(message[None].to(self.device), self.num_processes).cpu()
        rank = int(gathered.any(dim=1).nonzero()[0])
        if own is not None and rank == self.process_index:
            raise own
        words = gathered[rank]
        raise decode_error(rank, bytes(words[words != 0].tolist())) from own


def encode_error(error: Exception | None) -> bytes:
    """What a process tells the others of an error, nothing where there is none."""
    if error is None:
        return b""
    kind = "StorageError" if errors.is_storage_failure(error) else type(error).__name__
    return f"{kind}\n{error}".encode()


def decode_error(rank: int, words: bytes) -> Exception:
    """The error of another process.

    Args:
        rank: Of that process.
        words: What it told.

    Returns:
        An error of the same kind, where it is one of the library's, else a RuntimeError.
    """
    name, _, said = words.decode(errors="replace").partition("\n")
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.NacgenError)):
        kind = RuntimeError
    return kind(f"process {rank} stopped with {name}: {said}")


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
