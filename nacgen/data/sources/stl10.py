"""STL-10 as published: raw bytes, 96x96, 5,000 training, 8,000 test and 100,000 unlabelled images.

Coates, Lee & Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning. A file with as
many images as the published one must have its MD5; smaller ones, such as a test writes, are read without.
"""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.errors import DataError, DataNotFoundError
from nacgen.system.files import require_md5

SIZE = 96
IMAGE_BYTES = 3 * SIZE * SIZE

PUBLISHED = {  # images or labels, and MD5, of each file
    "train_X.bin": (5_000, "918c2871b30a85fa023e0c44e0bee87f"),
    "train_y.bin": (5_000, "5a34089d4802c674881badbb80307741"),
    "test_X.bin": (8_000, "7f263ba9f9e0b06b93213547f721ac82"),
    "test_y.bin": (8_000, "36f9794fa4beb8a2c72628de14fa638e"),
    "unlabeled_X.bin": (100_000, "5242ba1fed5e4be9e1e742405eb56ca4"),
}


def read_stl10(
    root: Path, split: str
) -> tuple[UInt8[Tensor, "n 3 96 96"], Int64[Tensor, " n"] | None, tuple[str, ...]]:
    """Read STL-10 from `stl10_binary/`.

    Args:
        root: The folder that holds it, or it itself.
        split: `"train"`, `"test"` or `"unlabeled"`.

    Returns:
        Images, labels from 0 and class names; no labels and names for the unlabelled images.

    Raises:
        DataNotFoundError: A file is missing.
        DataError: A file is damaged, or image and label files do not fit each other.
    """
    folder = root if root.name == "stl10_binary" else root / "stl10_binary"
    images = _read_images(_require(folder / f"{split}_X.bin"))
    if split == "unlabeled":
        return images, None, ()
    class_names = tuple(_require(folder / "class_names.txt").read_text().split())
    path = _require(folder / f"{split}_y.bin")
    labels = np.fromfile(path, dtype=np.uint8)
    if len(class_names) != 10 or len(labels) != len(images):
        raise DataError(
            f"{folder} must hold 10 class names and a label for each of {len(images)} images, got "
            f"{len(class_names)} names and {len(labels)} labels in {path.name}. Unpack the archive again."
        )
    if not ((labels >= 1) & (labels <= 10)).all():
        wrong = labels[(labels < 1) | (labels > 10)][0]
        raise DataError(
            f"labels in {path} must lie between 1 and 10, got {wrong}. Unpack the archive again."
        )
    _check_if_whole(path, len(labels))
    return images, torch.from_numpy(labels).long() - 1, class_names


def _read_images(path: Path) -> UInt8[Tensor, "n 3 96 96"]:
    num_images, rest = divmod(path.stat().st_size, IMAGE_BYTES)
    if rest or num_images == 0:
        raise DataError(
            f"{path} must hold one image or more of {IMAGE_BYTES} bytes, got {path.stat().st_size} bytes. "
            "Unpack the archive again."
        )
    _check_if_whole(path, num_images)
    stored = np.memmap(path, dtype=np.uint8, mode="r", shape=(num_images, IMAGE_BYTES))
    images = torch.empty(num_images, 3, SIZE, SIZE, dtype=torch.uint8)
    # Column by column on disk; copied from the mapped file straight into the tensor.
    images.numpy()[:] = rearrange(stored, "n (c w h) -> n c h w", c=3, w=SIZE, h=SIZE)
    return images


def _check_if_whole(path: Path, count: int) -> None:
    published, md5 = PUBLISHED[path.name]
    if count == published:
        require_md5(path, md5)


def _require(path: Path) -> Path:
    if not path.is_file():
        raise DataNotFoundError(
            f"STL-10 should lie in {path.parent}, but {path.name} is missing there. Download it once with "
            f"`python -c \"import torchvision; torchvision.datasets.STL10('{path.parent.parent}', "
            'download=True)"`.'
        )
    return path
