"""Trees of image files: listing them, decoding one, reading all into memory."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor

from nacgen.errors import DataError, DataNotFoundError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff"})


@dataclass(frozen=True)
class ImageFiles:
    """Where images lie and what they show; no pixels.

    Args:
        paths: Of the files, in a fixed order.
        labels: Class of each image, or a column of flags a class, or None.
        class_names: Name of each class, empty without labels.
    """

    paths: tuple[str, ...]
    labels: Int64[Tensor, " n"] | Bool[Tensor, "n c"] | None = None
    class_names: tuple[str, ...] = ()


def list_folder(data_dir: Path, split: str) -> ImageFiles:
    """Find the images of one split of a folder of one's own.

    Args:
        data_dir: The folder, with `train/` and `test/` in it, or all for training.
        split: `"train"` or `"test"`.

    Returns:
        The files of the split.

    Raises:
        DataNotFoundError: There is no such folder or split, or it holds no image.
        DataError: As `list_images`.
    """
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
    """Find every image below a folder, in the order of their paths.

    Each folder is listed once and no file is opened. Links are followed.

    Args:
        root: The folder. Where all images lie in subfolders, the first level names the class.

    Returns:
        The files.

    Raises:
        DataNotFoundError: The folder holds no image.
        DataError: A folder cannot be listed, links run in a circle, or what is named like an image is no
            file.
    """
    paths = tuple(_walk(str(root), ()))
    if not paths:
        raise DataNotFoundError(
            f"{root} must hold images ({', '.join(sorted(SUFFIXES))}), but none was found in it or below."
        )
    below = len(str(root)) + 1
    classes = [path[below:].partition(os.sep) for path in paths]
    if not all(separator for _, separator, _ in classes):  # an image beside the subfolders
        return ImageFiles(paths)
    class_names = tuple(sorted({name for name, _, _ in classes}))
    numbers = {name: number for number, name in enumerate(class_names)}
    return ImageFiles(paths, torch.tensor([numbers[name] for name, _, _ in classes]), class_names)


def _walk(folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        status = Path(folder).stat()
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.path, e.is_dir(), e.is_file()) for e in entries)
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
    for name, path, is_folder, is_file in found:
        if is_folder:
            yield from _walk(path, (*parents, identity))
        elif PurePath(name).suffix.lower() in SUFFIXES:
            if not is_file:
                raise DataError(
                    f"{path} must be an image file, but is a dangling link, a pipe or a device. Remove it."
                )
            yield path


def decode(path: str, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Read one image file as RGB.

    Args:
        path: Of the file.
        image_size: Height and width in pixels: the shorter side is brought to it (bicubic, antialiased) and
            the centre is cropped. None leaves the size as it is.

    Returns:
        Pixels, 0 to 255.

    Raises:
        DataError: The file cannot be decoded; it is named.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow's readers raise almost anything
        raise DataError(
            f"{path} must be a readable image, but is not ({type(error).__name__}: {error}). "
            "Repair or remove it."
        ) from error
    if image_size is not None and image.size != (image_size, image_size):
        scale = image_size / min(image.size)
        width, height = (max(image_size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image)


def decoded_bytes(files: ImageFiles, image_size: int | None) -> int:
    """Memory that all images of a listing would take.

    Args:
        files: The listing.
        image_size: As in `decode`. None: all are taken to have the size of the first one.

    Returns:
        Bytes; 0 where the first image does not say its size.
    """
    if image_size is not None:
        return len(files.paths) * 3 * image_size**2
    try:
        with Image.open(files.paths[0]) as file:
            return len(files.paths) * 3 * file.width * file.height
    except Exception:  # read_images names it, together with the other unreadable ones
        return 0


def read_images(paths: Sequence[str], image_size: int | None) -> UInt8[Tensor, "n 3 h w"]:
    """Decode files into one tensor, in several threads.

    Args:
        paths: One file or more.
        image_size: As in `decode`. None: all images must have one square size.

    Returns:
        The images in the order of the paths.

    Raises:
        DataError: Files cannot be read, or sizes differ; up to ten are named.
    """
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda path: _decode_or_error(path, image_size), paths))
    unreadable = [
        f"{path} ({type(result.__cause__).__name__}: {result.__cause__})"
        for path, result in zip(paths, results, strict=True)
        if isinstance(result, DataError)
    ]
    if unreadable:
        raise DataError(
            f"every image must be readable, but {len(unreadable)} of {len(paths)} are not: "
            f"{'; '.join(unreadable[:10])}. Repair or remove them."
        )
    arrays = [result for result in results if not isinstance(result, DataError)]
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        raise DataError(
            f"images of one square size are expected, got heights and widths {sizes[:5]}. "
            "Give --data.image-size to resize and crop them."
        )
    return torch.from_numpy(np.stack([rearrange(array, "h w c -> c h w") for array in arrays]))


def _decode_or_error(path: str, image_size: int | None) -> np.ndarray | DataError:
    try:
        return decode(path, image_size)
    except DataError as error:
        return error
