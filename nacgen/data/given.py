"""Images that were handed over in Python, brought to one form: a data set in memory."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from nacgen.data.datasets import ImageDataset
from nacgen.data.decoding import fit_image, require_8_bits, to_rgb
from nacgen.data.options import GIVEN
from nacgen.errors import DataError
from nacgen.system.terminal import is_terminal

IMAGE_KEYS, LABEL_KEYS = ("image", "img"), ("label", "labels", "fine_label")
MAX_BYTES = 16 * 1024**3
MAX_CLASSES = 1_000_000
ACCEPTED = (
    "a uint8 tensor or array (n, 3, h, w), a list of images, a map-style torch Dataset or a Hugging Face dataset "
    "of images or of pairs (image, label), or the path of a folder"
)


def given_dataset(
    images: object, image_size: int | None = None, split: str = "train", enlarge: bool = False
) -> ImageDataset:
    """Read images that are in hand into memory; an `ImageDataset` is returned as it is.

    An item is an image, a pair that begins with an image and its class number, or a mapping with a column `image`
    or `img` and perhaps `label`. An image is Pillow's, or a tensor or array of one or three channels, uint8 or
    floats in [0, 1] as torchvision's `ToTensor` makes them. Transparent pixels become white. A class is a whole
    number; other second parts of a pair are left out.

    Args:
        images: Images in one of these forms.
        image_size: Height and width in pixels. Images of one square size that is not larger keep it, unless
            `enlarge` is True; of all others the shorter side is resized to it and the center is cropped, as of
            files. None keeps the size, which must be one and square.
        split: Name of the split.
        enlarge: Whether to bring smaller images to `image_size`, too.

    Raises:
        DataError: The images come in another form, are none, or have several sizes without an `image_size`.

    Example:
        >>> pairs = [(torch.zeros(3, 16, 16, dtype=torch.uint8), i % 2) for i in range(4)]
        >>> dataset = given_dataset(pairs)
        >>> dataset.images.shape, dataset.labels
        (torch.Size([4, 3, 16, 16]), tensor([0, 1, 0, 1]))
    """
    if isinstance(images, ImageDataset):
        if enlarge and image_size != images.image_size:
            raise DataError(
                f"an ImageDataset keeps its size, {images.image_size} px, but {image_size} px were asked for by "
                "data.image_size or by the training images. Load it at that size, or hand over its images alone."
            )
        return images
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images))
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.is_meta:
            raise _refused(f"a tensor {tuple(images.shape)}")
        images = images.detach().cpu()
    is_numbered = hasattr(images, "__getitem__") and hasattr(images, "__len__")
    if not is_numbered or isinstance(images, str | bytes | Mapping):
        advice = ""
        if isinstance(images, Mapping) and all(isinstance(key, str) for key in images):
            advice = f" with the parts {', '.join(images)}: give one of them"
        raise _refused(f"a {type(images).__name__}{advice}")
    pixels, classes = [], []
    for image, label in _items(images):
        array = _as_array(image)
        is_small = image_size is not None and max(array.shape[:2]) <= image_size
        fits = image_size is None or (is_small and not enlarge)
        pixels.append(array if fits else _fitted(array, image_size))
        classes.append(label)
        if (needed := len(pixels) * pixels[0].nbytes) > MAX_BYTES:
            raise DataError(
                f"images that are handed over must fit into {MAX_BYTES / 1e9:.0f} GB of memory, but the first "
                f"{len(pixels):,} take {needed / 1e9:.1f} GB. Give data.image_size, or save them as files and "
                "give their folder."
            )
    if not pixels:
        raise _refused(f"an empty {type(images).__name__}")
    sizes = {array.shape[:2] for array in pixels}
    if len(sizes) > 1 or len(set(*sizes)) > 1:
        if image_size is None:
            found = ", ".join(f"{w}x{h}" for h, w in sorted(sizes)[:5])
            raise DataError(
                f"images must have one square size to be trained on, got {found} px. Give data.image_size, to "
                "which they are resized and cropped."
            )
        pixels = [_fitted(array, image_size) for array in pixels]
    tensor = torch.from_numpy(np.stack(pixels))
    labels = None
    numbers = [number for number in classes if number is not None]
    if len(numbers) == len(classes):
        for number in (min(numbers), max(numbers)):
            if not 0 <= number < MAX_CLASSES:
                raise DataError(
                    f"class numbers must be 0 or more and below {MAX_CLASSES:,}, got {number:,}. Number them "
                    "from 0."
                )
        labels = torch.tensor(numbers, dtype=torch.int64)
    names = () if labels is None else _class_names(images, int(labels.max()) + 1)
    tensor = rearrange(tensor, "n h w c -> n c h w").contiguous()
    return ImageDataset(GIVEN, split, tensor, labels, names)


def _items(images: Any) -> Iterator[tuple[object, int | None]]:
    """Yield each image with its class, None where it has none."""
    is_hidden = not is_terminal(sys.stderr)
    for i in tqdm(range(len(images)), "reading images", disable=is_hidden, delay=1, leave=False):
        item = images[i]
        label: object = None
        if isinstance(item, Mapping):
            key = next((key for key in IMAGE_KEYS if key in item), None)
            if key is None:
                raise DataError(
                    f"an item must have a column {' or '.join(IMAGE_KEYS)}, got {', '.join(map(str, item))}. "
                    "Rename the column of the images."
                )
            label = next((item[key] for key in LABEL_KEYS if key in item), None)
            item = item[key]
        elif isinstance(item, tuple | list) and item:
            item, label = item[0], (item[1] if len(item) > 1 else None)
        yield item, _class_number(label)


def _class_number(label: object) -> int | None:
    is_number = hasattr(label, "__index__") and not isinstance(label, bool)
    if isinstance(label, Tensor | np.ndarray) and (label.ndim or label.dtype in (torch.bool, bool)):
        is_number = False
    return int(label) if is_number else None  # type: ignore[call-overload]


def _as_array(image: object) -> np.ndarray:
    """Return the pixels of one image as uint8 `(h, w, 3)`."""
    if isinstance(image, Image.Image):
        require_8_bits(image)
        return fit_image(to_rgb(image), None)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image))
    if not isinstance(image, Tensor) or image.ndim not in (2, 3):
        shape = f" {tuple(image.shape)}" if isinstance(image, Tensor) else ""
        raise _refused(f"an item that is a {type(image).__name__}{shape}")
    image = image.detach().cpu()
    image = image[None] if image.ndim == 2 else image
    if image.shape[0] not in (1, 3) and image.shape[2] in (1, 3):
        image = rearrange(image, "h w c -> c h w")
    if image.is_floating_point():
        low, high = (float(x) for x in torch.aminmax(image))
        if not 0 <= low <= high <= 1:
            raise DataError(
                f"images of floats must lie in [0, 1], as torchvision's ToTensor makes them, got {low:.4g} to "
                f"{high:.4g}. Divide values up to 255 by 255, and leave out Normalize: networks normalize their "
                "input themselves."
            )
        image = (image.float() * 255 + 0.5).floor().to(torch.uint8)
    if image.dtype != torch.uint8 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise _refused(f"an image {image.dtype} {tuple(image.shape)}")
    pixels: np.ndarray = rearrange(image, "c h w -> h w c").expand(-1, -1, 3).numpy()
    return pixels


def _fitted(array: np.ndarray, image_size: int | None) -> np.ndarray:
    return fit_image(Image.fromarray(np.ascontiguousarray(array)), image_size)


def _class_names(images: Any, num_classes: int) -> tuple[str, ...]:
    """Return the names that a data set of torchvision or Hugging Face has for its classes, else their numbers."""
    names: Any = getattr(images, "classes", None)
    features = getattr(images, "features", None)
    if isinstance(features, Mapping):
        found = (getattr(features.get(key), "names", None) for key in LABEL_KEYS)
        names = next((each for each in found if each), None)
    if isinstance(names, Sequence) and not isinstance(names, str) and len(names) >= num_classes:
        return tuple(map(str, names))
    return tuple(map(str, range(num_classes)))


def _refused(came: str) -> DataError:
    return DataError(f"images must be {ACCEPTED}, got {came}.")
