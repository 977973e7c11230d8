"""Datasets by name, held in memory as uint8 tensors.

`digits` ships with the package: 1,797 handwritten digits, 8x8, enlarged to 16x16 (Alpaydin & Kaynak 1998,
UCI Optical Recognition of Handwritten Digits, CC BY 4.0; the same images as scikit-learn's `load_digits`).
"""

import codecs
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.folder import read_image_tree
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageDataset:
    """Images in memory, with labels where there are any.

    Args:
        name: Name under which it was loaded.
        split: `"train"` or `"test"`.
        images: Pixels, 0 to 255.
        labels: Class of each image, or None.
        class_names: Name of each class, empty without labels.
    """

    name: str
    split: str
    images: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"] | None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    def subset(self, indices: Int64[Tensor, " k"]) -> "ImageDataset":
        """The images at some indices, in their order."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, images=self.images[indices], labels=labels)


def load_dataset(
    name: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    image_size: int | None = None,
) -> ImageDataset:
    """Load a dataset by name.

    Args:
        name: `"digits"` (embedded), `"cifar10"` (torchvision's files) or `"folder"` (any tree of images;
            classes are its first-level subfolders).
        split: `"train"` or `"test"`.
        data_dir: Where the files lie; not used by `digits`. A `folder` may hold `train/` and `test/`.
        image_size: Height and width in pixels that images are brought to. Absent: as they are.

    Returns:
        The dataset, in a fixed order.

    Raises:
        ConfigurationError: The name or split is unknown, or `data_dir` is missing.
        DataNotFoundError: The files are not there; the message says how to get them.
        DataError: The files cannot be used; every unreadable one is named.
    """
    if name not in LOADERS:
        raise ConfigurationError(
            f"dataset must be one of {', '.join(LOADERS)}, got {name!r}. "
            "For images of your own use --dataset folder --data-dir PATH."
        )
    if split not in SPLITS:
        raise ConfigurationError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    if image_size is not None and image_size < 1:
        raise ConfigurationError(f"image_size must be 1 pixel or more, got {image_size}.")
    dataset = LOADERS[name](split, None if data_dir is None else Path(data_dir), image_size)
    if len(dataset) == 0:
        raise DataError(f"dataset {name!r} must hold images, but its {split} split has none.")
    return dataset


def load_splits(
    name: str, data_dir: str | Path | None = None, image_size: int | None = None
) -> tuple[ImageDataset, ImageDataset]:
    """Load the training images and images to measure on.

    Args:
        name: As in `load_dataset`.
        data_dir: As in `load_dataset`.
        image_size: As in `load_dataset`.

    Returns:
        The train and the test split. A `folder` without a `test/` gives every fifth of its training images
        in place of the latter; its name, `"train"`, says so.

    Raises:
        ConfigurationError: As `load_dataset`.
        DataError: As `load_dataset`.
    """
    train = load_dataset(name, "train", data_dir, image_size)
    if name == "folder" and data_dir is not None and not (Path(data_dir) / "test").is_dir():
        return train, train.subset(torch.arange(0, len(train), 5))
    return train, load_dataset(name, "test", data_dir, image_size)


def _load_digits(split: str, data_dir: Path | None, image_size: int | None) -> ImageDataset:
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        pixels, labels = archive["images"], torch.from_numpy(archive["labels"]).long()
    grey = rearrange(torch.from_numpy(pixels).float(), "n h w -> n 1 h w") * (255 / 16)
    images = repeat(_resize(grey, image_size or 16), "n 1 h w -> n c h w", c=3).contiguous()
    position_in_class = torch.empty_like(labels)
    for digit in range(10):
        members = labels == digit
        position_in_class[members] = torch.arange(int(members.sum()))
    is_test = position_in_class % 5 == 4  # stratified: every fifth image of each class
    chosen = is_test if split == "test" else ~is_test
    names = tuple(str(digit) for digit in range(10))
    return ImageDataset("digits", split, images[chosen], labels[chosen], names)


def _load_folder(split: str, data_dir: Path | None, image_size: int | None) -> ImageDataset:
    root = _require_data_dir("folder", data_dir)
    if not root.is_dir():
        raise DataNotFoundError(
            f"data_dir must be a folder of images, but {root} does not exist or is no folder. "
            "Give the folder with --data-dir."
        )
    if (root / split).is_dir():
        root = root / split
    elif split != "train":
        raise DataNotFoundError(
            f"the {split} split was asked for, but {root} has no subfolder {split!r}. "
            f"Put held-out images into {root / split}, or use the train split."
        )
    images, labels, class_names = read_image_tree(root, image_size)
    return ImageDataset("folder", split, images, labels, class_names)


def _load_cifar10(split: str, data_dir: Path | None, image_size: int | None) -> ImageDataset:
    root = _require_data_dir("cifar10", data_dir)
    pixels, labels = [], []
    folder = root if root.name == "cifar-10-batches-py" else root / "cifar-10-batches-py"
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataNotFoundError(
                f"CIFAR-10 should lie in {folder}, but {path.name} is missing there. Download it once with "
                f"`python -c \"import torchvision; torchvision.datasets.CIFAR10('{root}', download=True)\"`."
            )
        batch = _read_cifar_batch(path)
        pixels.append(torch.from_numpy(batch[b"data"]))
        labels.append(torch.tensor(batch[b"labels"], dtype=torch.int64))
    images = rearrange(torch.cat(pixels), "n (c h w) -> n c h w", c=3, h=32, w=32)
    if image_size not in (None, 32):
        images = _resize(images.float(), image_size)
    return ImageDataset("cifar10", split, images.contiguous(), torch.cat(labels), CIFAR10_CLASSES)


class _CifarUnpickler(pickle.Unpickler):
    """Reads CIFAR's archive of 2009, in which only these names occur, and nothing else."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("_codecs", "encode"): codecs.encode,  # how protocol 2 spells bytes
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise DataError(
                f"a CIFAR-10 batch refers to numpy arrays only, but this one names {module}.{name}, which "
                "is not loaded. Download the archive again from its publisher."
            )
        return self.allowed[module, name]


def _read_cifar_batch(path: Path) -> dict[bytes, Any]:
    try:
        batch = _CifarUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        data, labels = batch[b"data"], batch[b"labels"]
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} is no CIFAR-10 batch ({error}). Download the archive again."
        ) from error
    is_whole = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2
    if not is_whole or data.shape[1] != 3072 or len(labels) != len(data):
        raise DataError(
            f"{path} must hold rows of 3,072 bytes and a label for each, got "
            f"{getattr(data, 'shape', None)} and {len(labels)} labels. Download the archive again."
        )
    return {b"data": data, b"labels": labels}


def _resize(images: Tensor, size: int) -> Tensor:
    """Bring float images in 0..255 to `size` pixels, bilinearly, as uint8."""
    if images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return (images + 0.5).floor().clamp(0, 255).to(torch.uint8)


def _require_data_dir(name: str, data_dir: Path | None) -> Path:
    if data_dir is None:
        raise ConfigurationError(
            f"dataset {name!r} needs to know where its files lie, but data_dir is not given. "
            "Add --data-dir PATH."
        )
    return data_dir


LOADERS: dict[str, Callable[[str, Path | None, int | None], ImageDataset]] = {
    "digits": _load_digits,
    "cifar10": _load_cifar10,
    "folder": _load_folder,
}
