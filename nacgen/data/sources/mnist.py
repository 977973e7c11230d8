"""MNIST and Fashion-MNIST as published: gray images of 28x28 px in IDX files, compared by their MD5.

LeCun, Cortes & Burges 1998, The MNIST database; Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747 (MIT license).
"""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import UInt8
from torch import Tensor

from nacgen.data.folder import ImageFiles
from nacgen.errors import DataError, DataNotFoundError
from nacgen.system.files import open_regular

STORED = 28  # px
PADDED = 32  # px: each image lies in the middle, with black around it, as in LeCun et al. 1998
MAX_BYTES = 16 + 60_000 * STORED**2
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# Of the files without gzip, because Debian compresses them anew.
MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
CLASSES = {
    "MNIST": tuple(str(digit) for digit in range(10)),
    "FashionMNIST": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
}  # fmt: skip


def read_mnist(
    name: str, root: Path, split: str, image_size: int | None
) -> tuple[UInt8[Tensor, "n 3 h w"], ImageFiles]:
    """Read images, labels and class names of `"MNIST"` or `"FashionMNIST"`.

    `root` holds the files themselves, compressed or not, or torchvision's `<name>/raw/` with them. Images have the
    stored 28 px if `image_size` is 28, else they are padded to 32 px; three equal channels stand for gray.
    """
    where = (root / name / "raw", root / "raw", root)
    folder = next((f for f in where if any(map(Path.exists, _paths(f, FILES[split][0])))), where[0])
    (images_path, pixels), (labels_path, labels) = (
        _read(name, folder, file) for file in FILES[split]
    )
    gray = torch.from_numpy(np.frombuffer(pixels, np.uint8, offset=16).copy())
    gray = gray.view(-1, STORED, STORED)
    if image_size != STORED:
        gray = F.pad(gray, [(PADDED - STORED) // 2] * 4)
    classes = torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))
    paths = (str(images_path), str(labels_path))
    images = repeat(gray, "n h w -> n c h w", c=3).contiguous()
    return images, ImageFiles(paths, classes, CLASSES[name], str(folder))


def _paths(folder: Path, file: str) -> tuple[Path, Path]:
    return folder / file, folder / f"{file}.gz"


def _read(name: str, folder: Path, file: str) -> tuple[Path, bytes]:
    """Find and read one file without its gzip, and compare it with its MD5."""
    path = next((p for p in _paths(folder, file) if p.is_file()), None)
    if path is None:
        debian = "; Debian has it as dataset-fashion-mnist, in /usr/share/datasets/fashion-mnist"
        raise DataNotFoundError(
            f"{name} should lie in {folder}, but {file} or {file}.gz is missing there. Download it once with "
            f"`python -c \"import torchvision; torchvision.datasets.{name}('PATH', download=True)\"` and give PATH"
            f"{debian if name == 'FashionMNIST' else ''}."
        )
    try:
        with open_regular(path) as stored:
            opened = gzip.GzipFile(fileobj=stored) if path.suffix == ".gz" else stored
            content = opened.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} should be readable, but is not ({error}). Download or install it again."
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != MD5[name][file]:
        raise DataError(
            f"{path} must hold the published file with MD5 {MD5[name][file]}, but is damaged or changed. Download "
            "or install it again; use --dataset folder for images of your own."
        )
    return path, content
