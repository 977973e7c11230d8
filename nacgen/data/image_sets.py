"""Sets of images to be scored: folders of files, `.npz` archives and datasets, read as they are.

Files that could only be read with changed pixels are refused, because scores would change: several sizes, 16 bits
per channel, transparency, animations. Files that change scores by their nature, such as lossy ones, are noted.
Folders are not kept in the cache of decoded images: their features cost more, and `evaluate_images.py stats` keeps
those of a reference.
"""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.data.decoders import T, try_each
from nacgen.data.decoding import channel_depth, decode, open_image, orientation
from nacgen.data.folder import ImageFiles, in_words, list_images
from nacgen.data.options import require_images
from nacgen.errors import DataError
from nacgen.system.archive import ARCHIVE_ERRORS, read_arrays

LOSSY = ("JPEG", "MPO", "WEBP", "GIF")


@runtime_checkable
class ImageSet(Protocol):
    """A set of images that are read by number, such as a dataset."""

    @property
    def name(self) -> str:
        """Name of their source."""

    @property
    def split(self) -> str:
        """Name of the split."""

    def __len__(self) -> int:
        """Return the number of images."""

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Return the images at some indices, all of one size."""


@dataclass(frozen=True)
class FolderImages:
    """Image files of a folder, decoded in parallel when they are read."""

    name: str  # path of the folder
    paths: tuple[str, ...]
    image_size: int | None = None  # None keeps the size of the files
    notes: tuple[str, ...] = ()  # properties of the files that a reader of the score should know
    split: str = "all"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Decode the images at one index or more; files that cannot be decoded are a `DataError`."""
        work = partial(decode, image_size=self.image_size)
        arrays = _each([self.paths[i] for i in indices.tolist()], work)
        return torch.from_numpy(rearrange(arrays, "b h w c -> b c h w")).contiguous()


def open_images(
    source: str, *, data_dir: str | Path | None = None, image_size: int | None = None
) -> ImageSet:
    """Open a folder, an `.npz` archive, or a dataset and its split, as `"cifar10/test"`, for scoring.

    The files of a dataset lie in `data_dir`. Files and datasets are resized to `image_size`; None keeps them as
    they are, and archives are never resized. Images that cannot be scored are a `DataError`.

    Example:
        >>> images = open_images("digits/test")
        >>> len(images), images.read(torch.tensor([0])).shape
        (355, torch.Size([1, 3, 16, 16]))
    """
    require_images(source)
    path = Path(source)
    if path.is_dir():
        return open_folder(path, image_size)
    if path.suffix == ".npz":
        return read_npz(path)
    name, _, split = source.partition("/")
    return load_dataset(name, split or "train", data_dir, image_size)


def open_folder(folder: Path, image_size: int | None = None) -> FolderImages:
    """Find the images in and below a folder, in the order of their paths, and check the header of each file.

    A file that is transparent, or has several frames or 16 bits per channel, is a `DataError`; files of several
    sizes are, too, unless `image_size` resizes them.
    """
    files = list_images(folder)
    paths = files.paths
    sizes, kinds = zip(*_each(paths, _header), strict=True)
    counts = Counter(sizes)
    if image_size is None and len(counts) > 1:
        first = dict(zip(sizes[::-1], paths[::-1], strict=True))
        found = "; ".join(
            f"{width}x{height} px: {count} ({first[width, height]}{', …' if count > 1 else ''})"
            for (width, height), count in counts.most_common(5)
        )
        raise DataError(
            f"images of one size are expected in {folder}, got {len(counts)} sizes: {found}. Bring them to one "
            "size, or give an image size (--image-size) to resize and crop them here."
        )
    return FolderImages(str(folder), paths, image_size, tuple(_notes(folder, files, kinds)))


def holds_statistics(path: Path) -> bool:
    """Return True for an `.npz` archive of the statistics `mu` and `sigma`, not of images."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"mu.npy", "sigma.npy"} <= set(archive.namelist())
    except ARCHIVE_ERRORS:
        return False


def read_npz(path: Path) -> ImageDataset:
    """Read the images of an `.npz` archive, without unpickling anything.

    It must hold one array of four axes, uint8 `(n, h, w, 3)` or `(n, 3, h, w)`. Arrays of other ranks, such as
    labels, are ignored.
    """
    try:
        arrays = read_arrays(path)
    except ARCHIVE_ERRORS as error:
        raise DataError(
            f"{path} must be a whole .npz archive of plain numbers, but is not ({error}). Write it with "
            "numpy.savez."
        ) from error
    pictures = [array for array in arrays.values() if array.ndim == 4]
    if len(pictures) == 1 and pictures[0].dtype == np.uint8 and len(pictures[0]) > 0:
        (images,) = pictures
        is_last, is_first = images.shape[3] == 3, images.shape[1] == 3
        if is_last != is_first:
            images = rearrange(images, "n h w c -> n c h w") if is_last else images
            tensor = torch.from_numpy(np.ascontiguousarray(images))
            return ImageDataset(str(path), "all", tensor, None)
    found = ", ".join(f"{key}: {array.dtype} {array.shape}" for key, array in arrays.items())
    raise DataError(
        f"{path} must hold one array of images, uint8 (n, h, w, 3) or (n, 3, h, w), got {found or 'nothing'}. "
        "Scale floats to 0 to 255, round them, and save them with numpy.savez."
    )


def _header(path: str) -> tuple[tuple[int, int], str]:
    """Return width and height, and format of a file, or refuse one that cannot be scored as it is."""
    with open_image(path) as image:
        size = image.size if orientation(image) < 5 else image.size[::-1]  # as stored
        kind = str(image.format)
        is_animated, depth = getattr(image, "is_animated", False), channel_depth(image)
        alpha = None
        if image.has_transparency_data:
            has_band = image.mode in ("LA", "RGBA")
            alpha = (image if has_band else image.convert("RGBA")).getchannel("A")
    if is_animated:
        raise DataError(
            f"{path} must be one image, but has several frames. Save the one that is meant."
        )
    if depth != "8 bits":
        raise DataError(
            f"{path} must have 8 bits a channel, but has {depth}. Convert it, so that you know how it was rounded."
        )
    if alpha is not None and np.asarray(alpha).min() < 255:
        raise DataError(
            f"{path} must be opaque, but is transparent in places. Put it onto a background."
        )
    return size, kind


def _notes(folder: Path, files: ImageFiles, kinds: Sequence[str]) -> Iterator[str]:
    paths = files.paths
    nested = [path for path in paths if Path(path).parent != folder]
    if nested:
        num_folders = len({Path(path).parent for path in nested})
        yield f"nested: {len(nested)} of {len(paths)} images lie in {num_folders} folders below {folder}."
    if number := sum(files.passed_over.values()):
        reasons = in_words(files.passed_over)
        yield f"passed_over: {number} files in {folder} are not named like images ({reasons})."
    lossy = Counter(kind for kind in kinds if kind in LOSSY)
    if lossy:
        yield (
            f"lossy: {lossy.total()} of {len(paths)} images in {folder} are {' and '.join(lossy)}, whose "
            "compression changes scores. Save generated images as PNG."
        )


def _each(paths: Sequence[str], work: Callable[[str], T]) -> list[T]:
    """Return the result for each file, from several threads; if files fail, all are counted and ten are named."""
    results = list(try_each(paths, work))
    errors = [result for result in results if isinstance(result, DataError)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = " ".join(map(str, errors[:10]))
        raise DataError(f"{len(errors)} of {len(paths)} images cannot be scored. {listed}")
    return [result for result in results if not isinstance(result, DataError)]
