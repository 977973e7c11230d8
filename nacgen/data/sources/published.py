"""CIFAR-10, CIFAR-100 and STL-10 as published, compared with the MD5 checksums that torchvision holds.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images: pickles, opened only if their MD5 is right.
Coates, Lee & Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning: raw bytes, 96x96,
5,000 training, 8,000 test and 100,000 unlabeled images.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from nacgen.data.folder import ImageFiles
from nacgen.errors import DataError, DataNotFoundError


def read_cifar(name: str, root: Path, split: str) -> tuple[UInt8[Tensor, "n 3 32 32"], ImageFiles]:
    """Read images, labels and class names of `"CIFAR10"`, or of `"CIFAR100"` with its fine classes."""
    from torchvision import datasets  # slow to import

    kind = getattr(datasets, name)
    files = kind.train_list if split == "train" else kind.test_list
    meta = {kind.meta["filename"]: kind.meta["md5"]}
    folder, paths = _find_published(kind, root, dict(files) | meta)
    # torchvision wants the files of both splits; the other one's are not needed.
    other = "test_list" if split == "train" else "train_list"
    published = type(name, (kind,), {other: []})(folder.parent, train=split == "train")
    images = rearrange(torch.from_numpy(published.data), "n h w c -> n c h w").contiguous()
    labels = torch.tensor(published.targets)
    return images, ImageFiles(paths, labels, tuple(published.classes), str(folder))


def read_stl10(root: Path, split: str) -> tuple[UInt8[Tensor, "n 3 96 96"], ImageFiles]:
    """Read images, labels and class names of STL-10; there are none for unlabeled images.

    torchvision's reader wants the 2.7 GB of unlabeled images for every split, and holds images twice in memory.
    """
    from torchvision.datasets import STL10  # slow to import

    files: dict[str, str | None] = {
        name: md5 for name, md5 in (*STL10.train_list, *STL10.test_list) if name.startswith(split)
    }
    if split != "unlabeled":
        files[STL10.class_names_file] = None  # whose checksum is not published
    folder, paths = _find_published(STL10, root, files)
    stored = np.memmap(folder / f"{split}_X.bin", dtype=np.uint8, mode="r")
    # Columns come before rows on disk; the mapped file is copied straight into the tensor.
    columns = rearrange(stored, "(n c w h) -> n c h w", c=3, w=96, h=96)
    images = torch.from_numpy(np.ascontiguousarray(columns))
    if split == "unlabeled":
        return images, ImageFiles(paths, root=str(folder))
    labels = np.fromfile(folder / f"{split}_y.bin", dtype=np.uint8)
    class_names = tuple((folder / STL10.class_names_file).read_text().split())
    return images, ImageFiles(paths, torch.from_numpy(labels).long() - 1, class_names, str(folder))


def _find_published(
    dataset: type, root: Path, files: Mapping[str, str | None]
) -> tuple[Path, tuple[str, ...]]:
    """Return the folder of an unpacked archive, `root` or one in it, and the needed files, whose MD5 are checked.

    MD5 finds what a download or a disk damaged, and no one can make another file of the published checksum.
    """
    from torchvision.datasets.utils import check_integrity  # slow to import

    base: str = dataset.base_folder  # type: ignore[attr-defined]
    folder = root if root.name == base else root / base
    for name, md5 in files.items():
        if not (folder / name).is_file():
            raise DataNotFoundError(
                f"{dataset.__name__} should lie in {folder}, but {name} is missing there. Download it once with "
                f"`python -c \"import torchvision; torchvision.datasets.{dataset.__name__}('{folder.parent}', "
                'download=True)"`.'
            )
        if not check_integrity(folder / name, md5):
            raise DataError(
                f"{folder / name} must be the published file with MD5 {md5}, but is damaged or changed. "
                "Download the archive again and unpack it over this one."
            )
    return folder, tuple(str(folder / name) for name in files)
