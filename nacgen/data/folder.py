"""Reading a tree of image files into one tensor."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nacgen.errors import DataError, DataNotFoundError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})


def read_image_tree(
    root: Path, image_size: int | None
) -> tuple[Tensor, Tensor | None, tuple[str, ...]]:
    """Read every image below a folder, in the order of their paths.

    Images are converted to RGB. With `image_size` the shorter side is brought to that size (bicubic,
    antialiased) and the centre is cropped; without, all images must have one square size.

    Args:
        root: The folder. Where it has subfolders, the first level names the class.
        image_size: Height and width in pixels, or None.

    Returns:
        uint8 images `(n, 3, h, w)`, labels `(n,)` or None, and class names.

    Raises:
        DataNotFoundError: The folder holds no image.
        DataError: Files cannot be read, or sizes differ; up to ten are named.
    """
    paths = sorted(
        Path(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    )
    if not paths:
        raise DataNotFoundError(
            f"{root} must hold images ({', '.join(sorted(SUFFIXES))}), but none was found in it or below."
        )
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda path: _read_or_error(path, image_size), paths))
    unreadable = [f"{p} ({r})" for p, r in zip(paths, results, strict=True) if isinstance(r, str)]
    if unreadable:
        raise DataError(
            f"every image must be readable, but {len(unreadable)} of {len(paths)} are not: "
            f"{'; '.join(unreadable[:10])}. Repair or remove them."
        )
    arrays = [r for r in results if not isinstance(r, str)]
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        raise DataError(
            f"images of one square size are expected, got heights and widths {sizes[:5]}. "
            "Give --data.image-size to resize and crop them."
        )
    images = torch.from_numpy(rearrange(np.stack(arrays), "n h w c -> n c h w").copy())
    classes = [path.relative_to(root).parts[0] for path in paths if path.parent != root]
    if len(classes) < len(paths):  # images beside or without subfolders: no labels
        return images, None, ()
    class_names = tuple(sorted(set(classes)))
    labels = torch.tensor([class_names.index(name) for name in classes])
    return images, labels, class_names


def _read_or_error(path: Path, image_size: int | None) -> np.ndarray | str:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (
        OSError,
        ValueError,
        SyntaxError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as error:
        return type(error).__name__ + ": " + str(error)
    if image_size is not None and image.size != (image_size, image_size):
        scale = image_size / min(image.size)
        width, height = (max(image_size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image)
