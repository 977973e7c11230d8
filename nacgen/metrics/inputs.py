"""Images as people have them in hand, brought to one form: numbered, uint8 `(b, 3, h, w)`."""

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from nacgen.data.datasets import ImageDataset
from nacgen.data.decoding import require_8_bits
from nacgen.data.image_sets import ImageSet, open_images
from nacgen.errors import DataError
from nacgen.metrics.extractors.base import check_images

ImageSource = Callable[[Int64[Tensor, " b"]], Any]
AnyImages = ImageSet | Tensor | np.ndarray | Dataset[Any] | Iterable[Any] | str | Path

KEYS = ("image", "img", "images", "pixel_values")  # of an image in an item that is a mapping
ACCEPTED = (
    "a uint8 tensor or array, a torch Dataset or DataLoader of images or of pairs that begin with one, a list of "
    "images, the path of a folder or an .npz archive, or a dataset's name and split"
)


@dataclass(frozen=True, eq=False)
class ItemImages:
    """Images that are items of a sequence or a torch Dataset, converted when they are read."""

    name: str
    items: Any
    split: str = "all"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.items)

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Convert the images at some indices."""
        return image_batch([_of_item(self.items[i]) for i in indices.tolist()])


def image_set(images: object, limit: int | None = None) -> ImageSet:
    """Return images of any form as a numbered set; a DataLoader or another iterable is read once, into memory.

    `limit` is the number of images after which reading an iterable may stop; its order must be the same on every
    process. What cannot be scored as it is, such as floats and gray tensors, is a `DataError`.
    """
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, str | Path):
        return open_images(str(images))
    name = type(images).__name__
    if isinstance(images, Tensor | np.ndarray):
        return ImageDataset(name, "all", image_batch(images), None)
    is_text = isinstance(images, bytes | Mapping)
    is_numbered = hasattr(images, "__getitem__") and not isinstance(images, IterableDataset)
    if is_numbered and not is_text and isinstance(images, Sized) and len(images) > 0:
        return ItemImages(name, images)
    if isinstance(images, Iterable) and not is_text:
        parts: list[Tensor] = []
        num_read = 0
        for item in images:
            part = _of_item(item)
            is_one = isinstance(part, Image.Image) or getattr(part, "ndim", 0) == 3
            parts.append(image_batch([part] if is_one else part).cpu())
            num_read += len(parts[-1])
            if limit is not None and num_read >= limit:
                break
        if parts:
            return ImageDataset(name, "all", _joined(parts), None)
        name = f"an empty {name}"
    raise DataError(f"images must be {ACCEPTED}, got {name}.")


def image_batch(images: object) -> UInt8[Tensor, "b 3 h w"]:
    """Convert a batch: a uint8 tensor or array, channels first or last, or a list of such images or Pillow's."""
    if isinstance(images, tuple | list):
        if images and getattr(images[0], "ndim", 0) == 4:  # images and their labels
            return image_batch(images[0])
        return _joined([_batch_of_one(image) for image in images])
    if isinstance(images, np.ndarray):
        if images.ndim == 4 and images.shape[1] == images.shape[3] == 3:
            raise DataError(
                f"the channels of an array must be told from its pixels, got shape {images.shape}. Give a tensor "
                "(b, 3, h, w)."
            )
        if images.dtype.kind not in "buif":
            raise DataError(f"images must be {ACCEPTED}, got an array of {images.dtype}.")
        if images.dtype != np.uint8:  # of any size and byte order, refused by shape and kind
            kind = torch.float32 if images.dtype.kind == "f" else torch.int64
            check_images(torch.empty(images.shape, dtype=kind, device="meta"))
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    is_dense = (
        isinstance(images, Tensor) and images.layout == torch.strided and not images.is_nested
    )
    if not isinstance(images, Tensor) or not is_dense or images.is_meta:
        raise DataError(
            f"images must be {ACCEPTED}, with all their pixels, got {type(images).__name__}."
        )
    if images.ndim == 4 and images.shape[1] != 3 and images.shape[3] == 3:
        images = rearrange(images, "b h w c -> b c h w")
    check_images(images)
    return images


def _of_item(item: object) -> Any:
    """Return the image of a dataset's item, or the images of a loader's batch."""
    if isinstance(item, Mapping):
        if key := next((key for key in KEYS if key in item), None):
            return item[key]
        raise DataError(
            f"an item must have one of the keys {', '.join(KEYS)}, got {list(item)[:5]}."
        )
    return item[0] if isinstance(item, tuple | list) and item else item


def _batch_of_one(image: object) -> Tensor:
    if isinstance(image, Image.Image):
        require_8_bits(image)
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        if alpha is not None and np.asarray(alpha).min() < 255:
            raise DataError(
                f"images must be opaque, got one of mode {image.mode} that is transparent in places. Put it "
                "onto a background."
            )
        image = np.asarray(image.convert("RGB"))
    return image_batch(image[None] if isinstance(image, Tensor | np.ndarray) else image)


def _joined(parts: list[Tensor]) -> Tensor:
    sizes = {tuple(part.shape[1:]) for part in parts}
    if len(sizes) != 1:
        found = ", ".join(f"{size[2]}x{size[1]}" for size in islice(sorted(sizes), 5)) or "no image"
        raise DataError(f"images must have one size, got {found}. Bring them to one size.")
    return torch.cat(parts)
