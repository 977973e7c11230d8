"""A stream of batches that can start at any image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nacgen.data.datasets import ImageDataset
from nacgen.data.randomness import generator
from nacgen.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Batch:
    """One process's share of a global batch.

    Args:
        images: `(b, 3, h, w)` uint8 on the training device.
        labels: `(b,)` or None.
        seed: The run's seed.
        images_seen: Images seen by all processes together before this batch.
        global_size: Images in the global batch.
        start: Where this process's share begins in it.
    """

    images: Tensor
    labels: Tensor | None
    seed: int
    images_seen: int
    global_size: int
    start: int

    def generator(self, purpose: str) -> torch.Generator:
        """The generator for draws of the global batch, the same on every process."""
        return generator(self.seed, purpose, self.images_seen)

    def share(self, drawn: Tensor) -> Tensor:
        """This process's rows of what was drawn for the global batch, on the training device."""
        rows = drawn[self.start : self.start + len(self.images)]
        return rows.to(self.images.device, non_blocking=True)


class ImageStream:
    """Endless shuffled batches of a dataset, each a function of (seed, images seen).

    Every epoch is a new permutation and batches run on over its end, so no image is dropped and the
    position alone says which images come next.

    Args:
        dataset: Images; moved to `device` once.
        batch_size: Images in a global batch, over all processes.
        seed: The run's seed.
        device: Where batches are wanted.
        process_index: This process.
        num_processes: All processes.

    Raises:
        ConfigurationError: The batch does not split evenly over processes.
        DataError: The dataset is smaller than a batch.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        if batch_size % num_processes:
            raise ConfigurationError(
                f"batch_size must be a multiple of the number of processes, got {batch_size} for "
                f"{num_processes}. Choose a multiple with --batch-size."
            )
        if len(dataset) < batch_size:
            raise DataError(
                f"a batch of {batch_size} needs as many images, but {dataset.name}/{dataset.split} has "
                f"{len(dataset)}. Lower --batch-size."
            )
        self.images = dataset.images.to(device)
        self.labels = None if dataset.labels is None else dataset.labels.to(device)
        self.batch_size, self.seed = batch_size, seed
        self.local_size = batch_size // num_processes
        self.start = process_index * self.local_size
        self._permutations: dict[int, Tensor] = {}

    def indices(self, images_seen: int) -> Tensor:
        """Dataset indices of the global batch at a position, `(batch_size,)`."""
        n = len(self.images)
        epoch, offset = divmod(images_seen, n)
        order = self._permutation(epoch)
        if offset + self.batch_size > n:
            order = torch.cat([order, self._permutation(epoch + 1)])
        return order[offset : offset + self.batch_size]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            draw = generator(self.seed, "order", epoch)
            recent = {e: order for e, order in self._permutations.items() if e == epoch - 1}
            self._permutations = recent | {epoch: torch.randperm(len(self.images), generator=draw)}
        return self._permutations[epoch]

    def batch(self, images_seen: int) -> Batch:
        """This process's share of the global batch at a position.

        Args:
            images_seen: Images seen by all processes together so far.

        Returns:
            The batch, on the stream's device.
        """
        rows = self.indices(images_seen)[self.start : self.start + self.local_size]
        rows = rows.to(self.images.device)
        labels = None if self.labels is None else self.labels[rows]
        return Batch(self.images[rows], labels, self.seed, images_seen, self.batch_size, self.start)
