"""STL-10 as published: raw bytes, 96x96, 5,000 training, 8,000 test and 100,000 unlabeled images.

Coates, Lee & Ng 2011, An Analysis of Single-Layer Networks in Unsupervised Feature Learning.
"""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.sources.published import find_published


def read_stl10(
    root: Path, split: str
) -> tuple[UInt8[Tensor, "n 3 96 96"], Int64[Tensor, " n"] | None, tuple[str, ...]]:
    """Read images, labels and class names of STL-10 from `stl10_binary/`; there are none for unlabeled images.

    torchvision knows the checksums. Its reader is not used: it wants the 2.7 GB of unlabeled images for every
    split, and holds images twice in memory.
    """
    from torchvision.datasets import STL10  # slow to import

    files: dict[str, str | None] = {
        name: md5 for name, md5 in (*STL10.train_list, *STL10.test_list) if name.startswith(split)
    }
    if split != "unlabeled":
        files[STL10.class_names_file] = None
    folder = find_published(STL10, root, files)
    stored = np.memmap(folder / f"{split}_X.bin", dtype=np.uint8, mode="r")
    # Columns come before rows on disk; the mapped file is copied straight into the tensor.
    columns = rearrange(stored, "(n c w h) -> n c h w", c=3, w=96, h=96)
    images = torch.from_numpy(np.ascontiguousarray(columns))
    if split == "unlabeled":
        return images, None, ()
    labels = np.fromfile(folder / f"{split}_y.bin", dtype=np.uint8)
    class_names = (folder / STL10.class_names_file).read_text().split()
    return images, torch.from_numpy(labels).long() - 1, tuple(class_names)
