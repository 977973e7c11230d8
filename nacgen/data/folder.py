"""Trees of image files: finding them, their classes and splits, without opening a file.

Links to files and folders are followed, also out of the tree, because subsets are often made of links.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from nacgen.errors import DataError, DataNotFoundError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    | {".pbm", ".pgm", ".ppm", ".pnm"}
)


@dataclass(frozen=True)
class ImageFiles:
    """Paths and labels of images, without pixels."""

    paths: tuple[str, ...]
    labels: Int64[Tensor, " n"] | Bool[Tensor, "n c"] | None = None
    class_names: tuple[str, ...] = ()
    root: str = ""  # folder that the paths lie in
    no_files: tuple[str, ...] = ()  # paths that are named like images but are not files

    def without(self, skipped: Sequence[str]) -> "ImageFiles":
        """Return the listing without some paths; classes keep their numbers."""
        left_out = set(skipped)
        kept = [i for i, path in enumerate(self.paths) if path not in left_out]
        labels = None if self.labels is None else self.labels[kept]
        paths = tuple(self.paths[i] for i in kept)
        return replace(self, paths=paths, labels=labels, no_files=())


def list_folder(data_dir: Path, split: str) -> ImageFiles:
    """Find the images of `"train"` or `"test"` of a folder that holds both, or only training images."""
    if not data_dir.is_dir():
        raise DataNotFoundError(
            f"data_dir must be a folder of images, but {data_dir} does not exist or is no folder. "
            "Give the folder with --data-dir."
        )
    root = data_dir / split
    if root.is_dir():
        return list_images(root)
    if split != "train":
        raise DataNotFoundError(
            f"the {split} split was asked for, but {data_dir} has no subfolder {split!r}. "
            f"Put held-out images into {root}, or use the train split."
        )
    return list_images(data_dir)


def list_images(root: Path) -> ImageFiles:
    """Find all that is named like an image below a folder, in the order of paths, without opening a file.

    If all images lie in subfolders, the first level names the class.
    """
    found = list(_walk(str(root), ()))
    paths = [path for path, _ in found]
    no_files = [path for path, is_file in found if not is_file]
    if not paths:
        raise DataNotFoundError(
            f"{root} must hold images ({', '.join(sorted(SUFFIXES))}), but none was found in it or below."
        )
    below = len(str(root)) + 1
    ends = [path.find(os.sep, below) for path in paths]
    if min(ends) < 0:  # an image beside the subfolders
        return ImageFiles(tuple(paths), root=str(root), no_files=tuple(no_files))
    numbers: dict[str, int] = {}  # in the order of the walk, which is that of the names
    labels = [
        numbers.setdefault(path[below:end], len(numbers))
        for path, end in zip(paths, ends, strict=True)
    ]
    classes = tuple(numbers)
    return ImageFiles(tuple(paths), torch.tensor(labels), classes, str(root), tuple(no_files))


def _walk(folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, bool]]:
    """Yield paths that are named like images, and True for those that are files."""
    try:
        status = Path(folder).stat()
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.path, *_kind(e)) for e in entries)
    except OSError as error:
        raise DataError(
            f"every folder must be readable, but {error.filename} is not ({error.strerror}). "
            "Change its permissions or remove it."
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        raise DataError(
            f"{folder} must not lead back to a folder that it lies in, but is a link to one. Remove it."
        )
    for _, path, is_named, is_folder, is_file in found:
        if is_named:
            yield path, is_file
        elif is_folder:
            yield from _walk(path, (*parents, identity))


def _kind(entry: "os.DirEntry[str]") -> tuple[bool, bool, bool]:
    """Return whether an entry is named like an image, is a folder, and is a file."""
    is_named = os.path.splitext(entry.name)[1].lower() in SUFFIXES  # noqa: PTH122 - a million times
    try:
        return is_named, entry.is_dir(), entry.is_file()
    except OSError:  # a link to itself
        if not is_named:
            raise
        return is_named, False, False
