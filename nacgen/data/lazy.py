"""Images that are decoded when they are asked for, because they would not fit into memory.

Pillow releases the interpreter's lock while it decodes and resizes, so threads suffice: nothing is sent
between processes, and pixels are written straight into the batch.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import torch
from einops import rearrange
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nacgen.data.folder import decode

NUM_THREADS = min(16, os.cpu_count() or 1)


class PendingImages:
    """Images that worker threads are decoding.

    Args:
        images: Where they are written to.
        tasks: One an image.
    """

    def __init__(self, images: UInt8[Tensor, "b 3 h w"], tasks: list[Future[None]]) -> None:
        self._images, self._tasks = images, tasks

    def result(self) -> UInt8[Tensor, "b 3 h w"]:
        """Wait until all are there.

        Returns:
            The images, on the CPU.

        Raises:
            DataError: A file cannot be decoded; it is named.
        """
        try:
            for task in self._tasks:
                task.result()
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
    """

    name: str
    split: str
    paths: tuple[str, ...]
    image_size: int
    labels: Int64[Tensor, " n"] | Bool[Tensor, "n c"] | None
    class_names: tuple[str, ...] = ()
    num_threads: int = NUM_THREADS
    positions: Int64[Tensor, " n"] | None = None

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

        pool = _decoders(self.num_threads, os.getpid())
        tasks = [pool.submit(fill, row, self.paths[i]) for row, i in enumerate(indices.tolist())]
        return PendingImages(images, tasks)


@cache
def _decoders(num_threads: int, process_id: int) -> ThreadPoolExecutor:
    """The threads of one process; after a fork the child makes its own."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
