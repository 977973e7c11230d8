"""CIFAR-10 and CIFAR-100 as published, read by torchvision: pickles of 2009, opened only if their MD5 is right.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.sources.published import find_published


def read_cifar(
    name: str, root: Path, split: str
) -> tuple[UInt8[Tensor, "n 3 32 32"], Int64[Tensor, " n"], tuple[str, ...]]:
    """Read CIFAR-10 from `cifar-10-batches-py/`, or CIFAR-100 with its fine classes from `cifar-100-python/`.

    Return images, labels and class names. `name` is that of torchvision's class; `root` holds the archive's
    folder, or is the latter itself.
    """
    from torchvision import datasets  # slow to import

    kind = getattr(datasets, name)
    files = kind.train_list if split == "train" else kind.test_list
    meta = {kind.meta["filename"]: kind.meta["md5"]}
    folder = find_published(kind, root, dict(files) | meta)
    # torchvision wants the files of both splits; the other one's are not needed.
    other = "test_list" if split == "train" else "train_list"
    published = type(name, (kind,), {other: []})(folder.parent, train=split == "train")
    images = rearrange(torch.from_numpy(published.data), "n h w c -> n c h w").contiguous()
    return images, torch.tensor(published.targets), tuple(published.classes)
