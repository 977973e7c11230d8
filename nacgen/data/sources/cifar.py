"""CIFAR-10 and CIFAR-100 as published: pickles of 2009, read by an unpickler that knows numpy arrays only.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images. A batch with as many images as the
published one must have its MD5; smaller ones, such as a test writes, are read without.
"""

import codecs
import io
import pickle  # noqa: TID251 - a reader that makes arrays and nothing else
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.errors import DataError, DataNotFoundError
from nacgen.system.files import require_md5

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

Cifar = tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"], tuple[str, ...]]

PUBLISHED = {  # images and MD5 of each file
    "data_batch_1": (10_000, "c99cafc152244af753f735de768cd75f"),
    "data_batch_2": (10_000, "d4bba439e000b95fd0a9bffe97cbabec"),
    "data_batch_3": (10_000, "54ebc095f3ab1f0389bbae665268c751"),
    "data_batch_4": (10_000, "634d18415352ddfa80567beed471001a"),
    "data_batch_5": (10_000, "482c414d41f54cd18b22e5b47cb7c3cb"),
    "test_batch": (10_000, "40351d587109b95175f43aff81a1287e"),
    "train": (50_000, "16019d7e3df5f24257cddd939b257f8d"),
    "test": (10_000, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
}


def read_cifar10(root: Path, split: str) -> Cifar:
    """Read CIFAR-10 from `cifar-10-batches-py/`.

    Args:
        root: The folder that holds it, or it itself.
        split: `"train"` or `"test"`.

    Returns:
        Images, labels and class names.

    Raises:
        DataNotFoundError: A batch is missing.
        DataError: A batch is damaged, or is none.
    """
    folder = root if root.name == "cifar-10-batches-py" else root / "cifar-10-batches-py"
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    batches = [_read_batch(_require(folder / name, "CIFAR-10"), "labels", 10) for name in names]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return images, labels, CIFAR10_CLASSES


def read_cifar100(root: Path, split: str) -> Cifar:
    """Read CIFAR-100 with its 100 fine classes from `cifar-100-python/`.

    Args:
        root: The folder that holds it, or it itself.
        split: `"train"` or `"test"`.

    Returns:
        Images, labels and class names, the latter from the archive's `meta`.

    Raises:
        DataNotFoundError: A file is missing.
        DataError: A file is damaged, or is not what its name says.
    """
    folder = root if root.name == "cifar-100-python" else root / "cifar-100-python"
    images, labels = _read_batch(_require(folder / split, "CIFAR-100"), "fine_labels", 100)
    path = _require(folder / "meta", "CIFAR-100")
    names = _unpickle(path).get(b"fine_label_names")
    if not isinstance(names, list) or len(names) != 100:
        raise DataError(
            f"{path} must name 100 classes under fine_label_names, got "
            f"{len(names) if isinstance(names, list) else names}. Download the archive again."
        )
    return images, labels, tuple(name.decode() for name in names)


class _CifarUnpickler(pickle.Unpickler):
    """Reads CIFAR's archives of 2009, in which only these names occur, and nothing else."""

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
                f"a CIFAR batch refers to numpy arrays only, but this one names {module}.{name}, which "
                "is not loaded. Download the archive again from its publisher."
            )
        return self.allowed[module, name]


def _require(path: Path, name: str) -> Path:
    if not path.is_file():
        dataset = name.replace("-", "")
        raise DataNotFoundError(
            f"{name} should lie in {path.parent}, but {path.name} is missing there. Download it once with "
            f"`python -c \"import torchvision; torchvision.datasets.{dataset}('{path.parent.parent}', "
            'download=True)"`.'
        )
    return path


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        content = _CifarUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} is no file of CIFAR's archive ({error}). Download the archive again."
        ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} must hold a dictionary, got {type(content).__name__}. Download the archive again."
        )
    return content


def _read_batch(
    path: Path, label_key: str, num_classes: int
) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"]]:
    batch = _unpickle(path)
    data, labels = batch.get(b"data"), batch.get(label_key.encode())
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise DataError(
            f"{path} must hold rows of 3,072 bytes under data, got {getattr(data, 'dtype', type(data).__name__)} "
            f"of shape {getattr(data, 'shape', None)}. Download the archive again."
        )
    if not isinstance(labels, list) or len(labels) != len(data) or {*map(type, labels)} - {int}:
        raise DataError(
            f"{path} must hold a whole number for each of {len(data)} images under {label_key}, got "
            f"{len(labels) if isinstance(labels, list) else type(labels).__name__}. "
            "Download the archive again."
        )
    wrong = [label for label in labels if not 0 <= label < num_classes]
    if wrong:
        raise DataError(
            f"labels in {path} must lie between 0 and {num_classes - 1}, got {wrong[0]}. Download the "
            "archive again."
        )
    num_images, md5 = PUBLISHED[path.name]
    if len(data) == num_images:
        require_md5(path, md5)
    images = rearrange(torch.from_numpy(data), "n (c h w) -> n c h w", c=3, h=32, w=32)
    return images.contiguous(), torch.tensor(labels, dtype=torch.int64)
