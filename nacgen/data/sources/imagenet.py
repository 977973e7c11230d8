"""ImageNet-1K as it is commonly unpacked: `train/n01440764/*.JPEG` and `val/n01440764/*.JPEG`.

Russakovsky et al. 2015, arXiv:1409.0575. Any number of synset folders is taken, so subsets are read, too. The
publisher's checksums are those of its archives, so files that are already unpacked cannot be checked.
"""

import re
from pathlib import Path

from nacgen.data.folder import ImageFiles, list_images
from nacgen.errors import DataError, DataNotFoundError

FOLDERS = {"train": "train", "test": "val"}
SYNSET = re.compile(r"n\d{8}")


def list_imagenet(root: Path, split: str) -> ImageFiles:
    """Find the images in `root/train` or, as those in `test` have no labels, in `root/val` for `"test"`."""
    folder = root / FOLDERS[split]
    how = (
        "Get the archives ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz "
        f'from image-net.org into {root}; `python -c "import torchvision; [torchvision.datasets.ImageNet('
        f"'{root}', split) for split in ('train', 'val')]\"` unpacks and sorts them."
    )
    if not folder.is_dir():
        raise DataNotFoundError(
            f"ImageNet should lie in {root}, but the folder {folder.name} is missing there. {how}"
        )
    files = list_images(folder)
    if files.labels is None:
        stray = next(path for path in files.paths if Path(path).parent == folder)
        raise DataError(
            f"images in {folder} must lie in one folder per synset, like {folder.name}/n01440764, but "
            f"{Path(stray).name} lies in none. Sort them into synset folders. {how}"
        )
    strange = [name for name in files.class_names if not SYNSET.fullmatch(name)]
    if strange:
        raise DataError(
            f"folders in {folder} must be named after synsets, like n01440764, got "
            f"{', '.join(strange[:10])}. Use --dataset folder for other classes. {how}"
        )
    return files
