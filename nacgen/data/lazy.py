"""Images that are decoded when they are asked for, because they would not fit into memory.

Pixels are written straight into the batch.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nacgen.data.decoders import NUM_THREADS, decoders, result_of
from nacgen.data.folder import decode


class PendingImages:
    """Images that worker threads are decoding.

    Args:
        images: Where they are written to.
        paths: Of their files.
        tasks: One an image.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        paths: Sequence[str],
        tasks: Sequence[Future[None]],
    ) -> None:
        self._images, self._paths, self._tasks = images, paths, tasks

    def result(self) -> UInt8[Tensor, "b 3 h w"]:
        """Wait until all are there.

        Returns:
            The images, on the CPU.

        Raises:
            DataError: A file cannot be decoded, or not in time; it is named.
        """
        try:
            for path, task in zip(self._paths, self._tasks, strict=True):
                result_of(task, path)
        except BaseException:
            self.cancel()
            raise
        return self._images

    def cancel(self) -> None:
        """Do not decode what no thread has begun."""
        for task in self._tasks:
            task.cancel()


@dataclass(frozen=True)
class LazyImageDataset:
    """Image files, each decoded whenever it is read, with labels where there are any.

    It is used as an `ImageDataset` is, but has no tensor of all images.

    Args:
        name: Name under which it was loaded.
        split: As in `ImageDataset`.
        paths: Of the files.
        image_size: Height and width in pixels: the shorter side is brought to it (bicubic, antialiased) and
            the centre is cropped.
        labels: Class of each image, or a column of flags a class, or None.
        class_names: Name of each class, empty without labels.
        num_threads: That decode, shared by all datasets of the process with this number.
        positions: As in `ImageDataset`.
        skipped: As in `ImageDataset`.
    """

    name: str
    split: str
    paths: tuple[str, ...]
    image_size: int
    labels: Int64[Tensor, " n"] | Bool[Tensor, "n c"] | None
    class_names: tuple[str, ...] = ()
    num_threads: int = NUM_THREADS
    positions: Int64[Tensor, " n"] | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def subset(self, indices: Int64[Tensor, " k"]) -> "LazyImageDataset":
        """The images at some indices, in their order."""
        labels = None if self.labels is None else self.labels[indices]
        positions = None if self.positions is None else self.positions[indices]
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=labels, positions=positions)

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Decode some images.

        Args:
            indices: Which, in any order.

        Returns:
            Pixels on the CPU, equal to those that an `ImageDataset` of the same files holds.

        Raises:
            DataError: A file cannot be decoded; it is named.
        """
        return self.request(indices).result()

    def request(self, indices: Int64[Tensor, " b"], pin_memory: bool = False) -> PendingImages:
        """Begin to decode some images and return at once.

        Args:
            indices: Which, in any order.
            pin_memory: Write them where a GPU can fetch them from.

        Returns:
            What gives the images.
        """
        images = torch.empty(
            (len(indices), 3, self.image_size, self.image_size),
            dtype=torch.uint8,
            pin_memory=pin_memory,
        )
        rows = images.numpy()

        def fill(row: int, path: str) -> None:
            rows[row] = rearrange(decode(path, self.image_size), "h w c -> c h w")

        paths = [self.paths[i] for i in indices.tolist()]
        pool = decoders(self.num_threads)
        tasks = [pool.submit(partial(fill, row), path) for row, path in enumerate(paths)]
        return PendingImages(images, paths, tasks)
