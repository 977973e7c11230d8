"""Images decoded straight into the batch when they are read, because all would not fit into memory."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nacgen.data.decoders import decoders, result_of
from nacgen.data.decoding import decode
from nacgen.data.folder import ImageFiles


class PendingImages:
    """Images that threads are decoding into a tensor, with one path and one task for each."""

    def __init__(self, images: Tensor, paths: Sequence[str], tasks: Sequence[Future[None]]) -> None:
        self._images, self._paths, self._tasks = images, paths, tasks

    def result(self) -> UInt8[Tensor, "b 3 h w"]:
        """Wait for all images and return them; a file that cannot be decoded in time is a `DataError`."""
        try:
            for path, task in zip(self._paths, self._tasks, strict=True):
                result_of(task, path)
        except BaseException:
            self.cancel()
            raise
        return self._images

    def cancel(self) -> None:
        """Drop images that no thread has begun to decode."""
        for task in self._tasks:
            task.cancel()


@dataclass(frozen=True)
class LazyImageDataset:
    """Image files that are decoded whenever they are read; used like an `ImageDataset`, but without its tensor."""

    name: str
    split: str
    paths: tuple[str, ...]
    image_size: int  # see `nacgen.data.decoding.decode`
    labels: Int64[Tensor, " n"] | Bool[Tensor, "n c"] | None
    class_names: tuple[str, ...] = ()
    positions: Int64[Tensor, " n"] | None = None
    skipped: tuple[str, ...] = ()
    files: ImageFiles | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Int64[Tensor, " k"]) -> "LazyImageDataset":
        """Return the images at some indices, in their order."""
        labels, positions = (
            None if t is None else t[indices] for t in (self.labels, self.positions)
        )
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=labels, positions=positions)

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Decode the images at some indices; a file that cannot be decoded is a `DataError`."""
        return self.request(indices).result()

    def request(self, indices: Int64[Tensor, " b"], pin_memory: bool = False) -> PendingImages:
        """Begin to decode the images at some indices, into pinned memory if a GPU will fetch them."""
        shape = (len(indices), 3, self.image_size, self.image_size)
        images = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)
        rows = images.numpy()

        def fill(row: int, path: str) -> None:
            rows[row] = rearrange(decode(path, self.image_size), "h w c -> c h w")

        paths = [self.paths[i] for i in indices.tolist()]
        tasks = [decoders().submit(partial(fill, row), path) for row, path in enumerate(paths)]
        return PendingImages(images, paths, tasks)
