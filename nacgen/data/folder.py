"""Trees of image files: listing them, decoding one, reading all into memory.

Files of unknown origin are decoded to RGB with 8 bits per channel, or refused by name:

    decoded    gray, black and white, palettes, CMYK and other color spaces (without their color profiles), the
               first picture of a JPEG that holds several; transparent pixels are put on white
    as stored  the orientation that a camera notes beside the pixels is not applied, as in torchvision
    refused    16 bits or floats per channel, animations and other files of several frames, more pixels than
               `MAX_PIXELS`, formats that are not in `FORMATS` whatever the file's name, pipes, devices, folders
               named like images, links that lead nowhere

Links to files and folders are followed, also out of the tree, because subsets are often made of links.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int64, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nacgen.data.decoders import try_each
from nacgen.errors import DataError, DataNotFoundError
from nacgen.system.files import open_regular

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm", ".tif", ".tiff"})
# Pillow's other formats are not tried: PostScript, for example, would start a program.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF")
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB
MAX_SKIPPED = 0.01  # of all images


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


@contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """Open an image file without decoding it; errors of Pillow or the block become a `DataError` with its name."""
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            yield image
    except (MemoryError, DataError):
        raise
    except Exception as error:  # damaged files make Pillow's readers raise almost anything
        raise DataError(
            f"{path} must be a readable image, but is not ({_reason(error)}). Repair or remove it."
        ) from error


def channel_depth(image: Image.Image) -> str:
    """Return `"8 bits"`, or else the depth of an undecoded image's channels in words."""
    # Only the raw mode tells: Pillow reads colored 16-bit files as 8 bits without a warning.
    raw_modes = [
        arg
        for tile in getattr(image, "tile", [])
        for arg in np.atleast_1d(tile.args)
        if ";16" in str(arg)
    ]
    if raw_modes or image.mode.startswith("I;16"):
        return "16 bits"
    return {"I": "32 bits or 16", "F": "floats"}.get(image.mode, "8 bits")


def decode(path: str, image_size: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Read one image file as RGB; one that is damaged, or of a kind that is refused, is a `DataError`.

    The shorter side is resized to `image_size` pixels (bicubic, antialiased) and the center is cropped. None keeps
    the size of the file.
    """
    with open_image(path) as file:
        depth, frames = channel_depth(file), getattr(file, "n_frames", 1)
        if depth != "8 bits":
            raise ValueError(f"it has {depth} a channel, and only you know how to round them")
        if frames > 1 and file.format != "MPO":
            raise ValueError(f"it has {frames} frames")
        if image_size is not None and max(file.size) * image_size**2 > MAX_PIXELS * min(file.size):
            raise ValueError(f"{file.width} x {file.height} pixels are too many at {image_size}")
        if file.has_transparency_data:
            opaque = Image.new("RGBA", file.size, "white")
            image = Image.alpha_composite(opaque, file.convert("RGBA")).convert("RGB")
        else:
            image = file.convert("RGB")
    if image_size is not None and image.size != (image_size, image_size):
        scale = image_size / min(image.size)
        width, height = (max(image_size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image)


def decoded_bytes(files: ImageFiles, image_size: int | None) -> int:
    """Return the bytes of all images in memory, at the size of the first readable one if none is given."""
    if image_size is not None:
        return len(files.paths) * 3 * image_size**2
    for path in files.paths:
        try:
            with open_image(path) as image:
                return len(files.paths) * 3 * image.width * image.height
        except DataError:  # read_images names it, together with the other unreadable ones
            continue
    return 0


def read_images(
    paths: Sequence[str], image_size: int | None, skip_bad: bool = False
) -> tuple[UInt8[Tensor, "n 3 h w"], tuple[str, ...]]:
    """Decode files of one square size into a tensor; return it and the unreadable paths that were left out."""
    results = list(try_each(paths, lambda path: decode(path, image_size)))
    errors = {p: r for p, r in zip(paths, results, strict=True) if isinstance(r, DataError)}
    skipped = _check_readable(errors, len(paths), skip_bad)
    arrays = [result for result in results if not isinstance(result, DataError)]
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        raise DataError(
            f"images of one square size are expected, got heights and widths {sizes[:5]}. "
            "Give --data.image-size to resize and crop them."
        )
    return stack_images(arrays), skipped


def stack_images(arrays: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[Tensor, "n 3 h w"]:
    """Stack decoded images of one size."""
    return torch.from_numpy(np.stack([rearrange(array, "h w c -> c h w") for array in arrays]))


def find_unreadable(files: ImageFiles, image_size: int, skip_bad: bool) -> tuple[str, ...]:
    """Return unreadable files to leave out, before images are decoded as they are read."""
    suspects = files.paths if skip_bad else files.no_files
    results = zip(suspects, try_each(suspects, lambda p: decode(p, image_size)), strict=True)
    errors = {path: result for path, result in results if isinstance(result, DataError)}
    return _check_readable(errors, len(files.paths), skip_bad)


def _check_readable(
    errors: Mapping[str, DataError], num_files: int, skip_bad: bool
) -> tuple[str, ...]:
    """Return the unreadable paths if they may be left out, or raise an error that names them."""
    if not errors or (skip_bad and len(errors) <= MAX_SKIPPED * num_files):
        return tuple(errors)
    bound = f"all but {MAX_SKIPPED:.0%} of the images" if skip_bad else "every image"
    listed = "; ".join(
        f"{path} ({_reason(error.__cause__ or error)})" for path, error in list(errors.items())[:10]
    )
    how = "" if skip_bad else ", or pass over a few with --data.skip-bad"
    raise DataError(
        f"{bound} must be readable, but {len(errors)} of {num_files} are not: {listed}. Repair or remove "
        f"them{how}."
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged or none of {', '.join(FORMATS)}"
    return f"{type(error).__name__}: {error}"
