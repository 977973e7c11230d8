"""Datasets by name: uint8 tensors in memory, or files decoded when they are read if they would not fit.

`digits` ships with the package: 1,797 handwritten digits, 8x8, enlarged to 16x16 (Alpaydin & Kaynak 1998,
UCI Optical Recognition of Handwritten Digits, CC BY 4.0; the same images as scikit-learn's `load_digits`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nacgen.data.cache import load_images
from nacgen.data.decoding import decoded_bytes, find_unreadable
from nacgen.data.folder import ImageFiles
from nacgen.data.layout import list_folder
from nacgen.data.lazy import LazyImageDataset
from nacgen.data.options import SPLITS, require_data
from nacgen.data.sources.flickr25k import list_flickr25k
from nacgen.data.sources.imagenet import list_imagenet
from nacgen.data.sources.mnist import read_mnist
from nacgen.data.sources.published import read_cifar, read_stl10
from nacgen.errors import ConfigurationError, DataError, check_choice

MAX_BYTES = 2 * 1024**3  # largest dataset that is decoded into memory
HELD_OUT = "held-out fifth"  # split of held-out images of a dataset without test images

READERS: dict[str, Callable[[Path, str, int | None], tuple[Tensor, ImageFiles]]] = {
    "cifar10": lambda root, split, size: read_cifar("CIFAR10", root, split),
    "cifar100": lambda root, split, size: read_cifar("CIFAR100", root, split),
    "mnist": partial(read_mnist, "MNIST"),
    "fashion-mnist": partial(read_mnist, "FashionMNIST"),
    "stl10": lambda root, split, size: read_stl10(root, split),
}
LISTINGS: dict[str, Callable[[Path, str], ImageFiles]] = {
    "flickr25k": lambda root, split: list_flickr25k(root),
    "imagenet": list_imagenet,
    "folder": list_folder,
}


@dataclass(frozen=True)
class ImageDataset:
    """Images in memory; the label of an image with several classes is one flag per class."""

    name: str
    split: str  # "train", "test", "unlabeled", or "held-out fifth", see `load_splits`
    images: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"] | Bool[Tensor, "n c"] | None
    class_names: tuple[str, ...] = ()
    positions: Int64[Tensor, " n"] | None = None  # in the dataset that a fifth was held out of
    skipped: tuple[str, ...] = ()  # unreadable files that were left out
    files: ImageFiles | None = None  # that the images were read from, before any were left out

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    def read(self, indices: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
        """Return the images at some indices."""
        return self.images[indices]

    def subset(self, indices: Int64[Tensor, " k"]) -> "ImageDataset":
        """Return the dataset of the images at some indices, in their order."""
        labels, positions = (
            None if t is None else t[indices] for t in (self.labels, self.positions)
        )
        return replace(self, images=self.images[indices], labels=labels, positions=positions)


Dataset = ImageDataset | LazyImageDataset


def load_dataset(
    name: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    max_bytes: int = MAX_BYTES,
    skip_bad: bool = False,
    cache: str | Path | None = None,
) -> Dataset:
    """Load a dataset by name.

    `digits` is embedded. `cifar10`, `cifar100`, `mnist`, `fashion-mnist`, `stl10`, `flickr25k` and `imagenet` are
    read as their publishers lay them out. Images of `mnist` and `fashion-mnist` get three equal channels and are
    padded from 28 to 32 px, unless `image_size` is 28. `folder` is any tree of images: if all lie in subfolders,
    the first level names the class, above which may be splits, see `nacgen.data.layout`.

    Args:
        name: Name of the dataset, one of the above.
        split: `"train"` or `"test"`; for `stl10` also `"unlabeled"`. `flickr25k` has `"train"` only, because its
            splits belong to a retrieval protocol. The test images of `imagenet` are those in `val/`.
        data_dir: Folder of the files; `digits` needs none.
        image_size: Height and width in pixels that images are resized to; None leaves them as they are.
        max_bytes: Largest memory for the images of `flickr25k` and `folder`. Beyond it, and always for
            `imagenet`, images are decoded whenever they are read, which needs `image_size`.
        skip_bad: Leave out unreadable files of `flickr25k`, `folder` and `imagenet`, one in a hundred at most, and
            name them in `skipped`. For this, files that do not fit into memory are all decoded once. Otherwise
            unreadable files are an error: at once if images fit into memory, else when they are read.
        cache: Folder that keeps decoded images of `flickr25k` and `folder` if they fit into memory, so that they
            are decoded once; None is one of the user's, see `nacgen.data.cache`, and `"none"` keeps none.

    Returns:
        The dataset, in a fixed order.

    Raises:
        ConfigurationError: The name or split is unknown, or `data_dir` or `image_size` is missing.
        DataNotFoundError: The files are not there; the message says how to get them.
        DataError: The files cannot be used; unreadable ones are named.

    Example:
        >>> digits = load_dataset("digits", "test")
        >>> len(digits), digits.read(torch.tensor([0, 1])).shape
        (355, torch.Size([2, 3, 16, 16]))
    """
    require_data(name, data_dir)
    check_choice(f"split of {name}", split, SPLITS[name])
    if image_size is not None and image_size < 1:
        raise ConfigurationError(f"image_size must be 1 pixel or more, got {image_size}.")
    root = Path(data_dir or "")
    if name == "digits":
        return _load_digits(split, image_size or 16)
    if name in READERS:
        images, files = READERS[name](root, split, image_size)
        if image_size not in (None, images.shape[-1]):
            # In chunks, because floats take four times the memory.
            images = torch.cat([_resize(chunk, image_size) for chunk in images.split(1000)])
        return ImageDataset(name, split, images, files.labels, files.class_names, files=files)

    # Image files are read into memory if they fit, else left to be decoded later.
    files = LISTINGS[name](root, split)
    num_bytes = decoded_bytes(files.paths, image_size)
    if num_bytes <= max_bytes and name != "imagenet":
        images, skipped, files = load_images(files, image_size, skip_bad, cache)
        kept = files.without(skipped)
        return ImageDataset(
            name, split, images, kept.labels, kept.class_names, None, skipped, files
        )
    if image_size is None:
        raise ConfigurationError(
            f"image_size must be given if images are decoded as they are read: those of {name} would take "
            f"{num_bytes / 1e9:.1f} GB in memory, of {max_bytes / 1e9:.1f} GB allowed. Add --data.image-size."
        )
    skipped = find_unreadable(files.paths, files.no_files, image_size, skip_bad)
    kept = files.without(skipped)
    return LazyImageDataset(
        name, split, kept.paths, image_size, kept.labels, kept.class_names, None, skipped, files
    )


def load_splits(
    name: str,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    max_bytes: int = MAX_BYTES,
    skip_bad: bool = False,
    cache: str | Path | None = None,
) -> tuple[Dataset, Dataset]:
    """Load training images and images to measure on, which share no image.

    If there is no test split, every fifth image is held out of the training images: the fifth, tenth, … of each
    class in the dataset's order, so that no class is lost. If images have no class or several, it is every fifth
    of all. The arguments and errors are those of `load_dataset`.

    Returns:
        The splits `"train"` and `"test"`, with the same class numbers; or `"train"`, which is then four fifths,
        and `"held-out fifth"`.

    Raises:
        DataError: Test images have a class that training images lack, or nothing can be held out.

    Example:
        >>> train, test = load_splits("digits")
        >>> len(train), len(test)
        (1442, 355)
    """
    train = load_dataset(name, "train", data_dir, image_size, max_bytes, skip_bad, cache)
    test = load_test_split(train, data_dir, image_size, max_bytes, skip_bad, cache)
    return hold_out(train) if test is None else (train, test)


def load_test_split(
    train: Dataset,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    max_bytes: int = MAX_BYTES,
    skip_bad: bool = False,
    cache: str | Path | None = None,
) -> Dataset | None:
    """Load the split `"test"` with the class numbers of training images, or None if there is none."""
    has_test = "test" in SPLITS[train.name]
    if train.name == "folder":
        has_test = train.files is not None and train.files.held_out != ""
    if not has_test:
        return None
    test = load_dataset(train.name, "test", data_dir, image_size, max_bytes, skip_bad, cache)
    if train.labels is None or test.labels is None or test.class_names == train.class_names:
        return test
    known = {name: number for number, name in enumerate(train.class_names)}
    unknown = [name for name in test.class_names if name not in known]
    if unknown:
        raise DataError(
            f"classes of test images must be among those of training images, but {len(unknown)} of "
            f"{test.name} are not: {', '.join(unknown[:10])}. Look at the names of the subfolders."
        )
    numbers = torch.tensor([known[name] for name in test.class_names])
    return replace(test, labels=numbers[test.labels], class_names=train.class_names)


def hold_out(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Split a dataset into four fifths and one, see `load_splits`; both remember their positions in it."""
    classes = dataset.labels
    if classes is None or classes.ndim != 1:
        classes = torch.zeros(len(dataset), dtype=torch.int64)
    is_held_out = _every_fifth(classes)
    if not is_held_out.any():
        raise DataError(
            f"{dataset.name} has no test split, and every fifth image of a class is held out in its place, but "
            f"its {len(dataset)} images are {int(classes.bincount().max())} or fewer in each class. Put images "
            "to measure on into a folder test beside train, or give more images."
        )
    whole = replace(dataset, positions=torch.arange(len(dataset)))
    train, held_out = (
        whole.subset(part.nonzero().squeeze(1)) for part in (~is_held_out, is_held_out)
    )
    return train, replace(held_out, split=HELD_OUT)


def _every_fifth(classes: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Mark the fifth, tenth, … image of each class."""
    order, sizes = classes.argsort(stable=True), classes.bincount()
    starts = sizes.cumsum(0) - sizes
    position_in_class = torch.empty_like(classes)
    position_in_class[order] = torch.arange(len(classes)) - starts[classes[order]]
    return position_in_class % 5 == 4


def _load_digits(split: str, image_size: int) -> ImageDataset:
    path = Path(__file__).with_name("digits.npz")
    with np.load(path) as archive:
        pixels, labels = archive["images"], torch.from_numpy(archive["labels"]).long()
    gray = rearrange(torch.from_numpy(pixels).float(), "n h w -> n 1 h w") * (255 / 16)
    images = repeat(_resize(gray, image_size), "n 1 h w -> n c h w", c=3).contiguous()
    is_test = _every_fifth(labels)
    chosen = is_test if split == "test" else ~is_test
    names = tuple(str(digit) for digit in range(10))
    files = ImageFiles((str(path),), labels[chosen], names, str(path.parent))
    return ImageDataset("digits", split, images[chosen], labels[chosen], names, files=files)


def _resize(images: Tensor, size: int) -> Tensor:
    """Resize images in 0..255 bilinearly, and round to uint8."""
    images = images.float()
    if images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return (images + 0.5).floor().clamp(0, 255).to(torch.uint8)
