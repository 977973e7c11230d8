"""Checkpoints in the background: a state is copied, and one thread writes the copy while training goes on."""

import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nacgen.system.tensor_file import Tensors, copy_serialized
from nacgen.training.checkpoint import save_checkpoint
from nacgen.training.run import Run


class CheckpointWriter:
    """A context in which one checkpoint of a run at a time is written, on the process that writes.

    Copies stand in buffers of the size of one state, pinned if the state is on a GPU, which are used again. Where
    memory for them is lacking, the state itself is written before `save` returns.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._job: Future[Path] | None = None
        self._buffers: dict[str, Tensor] = {}
        self._is_told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what is being written; its error is only told if another one ends the run."""
        self.wait_and_report()
        self._pool.shutdown()

    def save(
        self,
        parts: Mapping[str, Tensors],
        state: Mapping[str, Any],
        images_seen: int,
        **kept: int | None,
    ) -> None:
        """Wait for the checkpoint before, copy the tensors, and begin to write them as `save_checkpoint` does."""
        self.wait()
        copies = self._copied(parts)

        def write() -> Path:
            self._run.sync_log()
            check = self._run.check_lock
            path = self._run.checkpoints
            return save_checkpoint(path, copies or parts, state, images_seen, check=check, **kept)

        self._job = self._pool.submit(write)
        if copies is None:
            self.wait()

    def raise_failure(self) -> None:
        """Raise the error of a checkpoint that could not be written, without waiting."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, and raise its error."""
        if self._job is not None:
            wait([self._job])  # an interrupt leaves it where it is
            job, self._job = self._job, None
            job.result()

    def wait_and_report(self) -> None:
        """Wait for the checkpoint that is being written; print its error, for another one is raised."""
        try:
            self.wait()
        except Exception as error:
            print(f"error of the last checkpoint: {error}", file=sys.stderr)

    def _copied(self, parts: Mapping[str, Tensors]) -> dict[str, list[memoryview]] | None:
        """Copy a state; None where memory for that is lacking, which is told once."""
        try:
            for name, part in parts.items():
                self._buffers[name] = copy_serialized(part, self._buffers.get(name))
        except MemoryError as error:
            self._buffers.clear()
            if not self._is_told:
                told = "there is no memory to copy the state: training waits while checkpoints are written"
                print(f"warning: {told} ({error})", file=sys.stderr)
            self._is_told = True
            return None
        if self._run.device.type != "cpu":
            torch.accelerator.synchronize(self._run.device)
        return {name: [self._buffers[name].numpy().data] for name in parts}
