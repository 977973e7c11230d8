"""A stream of batches from memory or from files, which can start at any image."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nacgen.data.datasets import Dataset, ImageDataset
from nacgen.data.lazy import LazyImageDataset, PendingImages
from nacgen.errors import ConfigurationError, DataError
from nacgen.system.randomness import generator

PREFETCH = 2  # batches decoded ahead


@dataclass(frozen=True)
class Batch:
    """One process's part of a global batch."""

    images: Tensor  # (b, 3, h, w), uint8, on the training device
    labels: Tensor | None  # class of each image, or one flag per class
    seed: int  # of the run
    images_seen: int  # by all processes together before this batch
    global_size: int  # number of images in the global batch
    start: int  # index in the global batch of this part's first image

    def generator(self, purpose: str) -> torch.Generator:
        """Return the random generator for draws of the global batch, the same on every process."""
        return generator(self.seed, purpose, self.images_seen)

    def local(self, drawn: Tensor) -> Tensor:
        """Return this process's rows of what was drawn for the global batch, on the training device."""
        rows = drawn[self.start : self.start + len(self.images)]
        return rows.to(self.images.device, non_blocking=True)

    def split(self, num_parts: int) -> "list[Batch]":
        """Split into a number of equal parts; draws for the parts are the rows of draws for the whole."""
        size = len(self.images) // num_parts
        return [
            replace(
                self,
                images=self.images[i : i + size],
                labels=None if self.labels is None else self.labels[i : i + size],
                start=self.start + i,
            )
            for i in range(0, len(self.images), size)
        ]


class ImageStream:
    """Endless shuffled batches of a dataset, each a function of (seed, images seen).

    Every epoch is a new permutation, and a batch may continue into the next epoch: no image is dropped, and the
    position alone says which images come next. A dataset in memory is moved to `device` once. Files are decoded
    ahead; their batches equal those from memory.

    A batch size, over all processes, that does not split evenly over them is a `ConfigurationError`; one larger
    than the dataset is a `DataError`.

    Example:
        >>> from nacgen.data.datasets import load_dataset
        >>> stream = ImageStream(load_dataset("digits"), batch_size=4, seed=0)
        >>> stream.batch(images_seen=0).images.shape
        torch.Size([4, 3, 16, 16])
    """

    def __init__(
        self,
        dataset: Dataset,
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
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.local_size = batch_size // num_processes
        self.start = process_index * self.local_size
        self._dataset = dataset
        self._images = dataset.images.to(device) if isinstance(dataset, ImageDataset) else None
        self._labels = None if dataset.labels is None else dataset.labels.to(device)
        self._pending: dict[int, PendingImages] = {}
        self._permutations: dict[int, Tensor] = {}

    def indices(self, images_seen: int) -> Tensor:
        """Return the dataset indices `(batch_size,)` of the global batch at a position."""
        n = len(self._dataset)
        epoch, offset = divmod(images_seen, n)
        order = self._permutation(epoch)
        if offset + self.batch_size > n:
            order = torch.cat([order, self._permutation(epoch + 1)])
        return order[offset : offset + self.batch_size]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            draw = generator(self.seed, "order", epoch)
            recent = {e: order for e, order in self._permutations.items() if e == epoch - 1}
            order = torch.randperm(len(self._dataset), generator=draw)
            self._permutations = recent | {epoch: order}
        return self._permutations[epoch]

    def batch(self, images_seen: int) -> Batch:
        """Return this process's part of the global batch at a position."""
        rows = self._rows(images_seen).to(self.device)
        images = self._decoded(images_seen) if self._images is None else self._images[rows]
        labels = None if self._labels is None else self._labels[rows]
        return Batch(images, labels, self.seed, images_seen, self.batch_size, self.start)

    def _rows(self, images_seen: int) -> Tensor:
        return self.indices(images_seen)[self.start : self.start + self.local_size]

    def _decoded(self, images_seen: int) -> Tensor:
        """Return the images at a position, and begin to decode those of the next positions."""
        assert isinstance(self._dataset, LazyImageDataset)
        positions = [images_seen + i * self.batch_size for i in range(PREFETCH + 1)]
        for position in self._pending.keys() - set(positions):  # after a jump
            self._pending.pop(position).cancel()
        for position in positions:
            if position not in self._pending:
                rows, on_gpu = self._rows(position), self.device.type == "cuda"
                self._pending[position] = self._dataset.request(rows, pin_memory=on_gpu)
        try:
            images = self._pending.pop(images_seen).result()
        except BaseException:
            for pending in self._pending.values():
                pending.cancel()
            self._pending = {}
            raise
        return images.to(self.device, non_blocking=True)
