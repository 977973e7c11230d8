"""FLICKR-25K (MIRFLICKR-25000) as published: photographs with 24 potential labels, several per image.

Huiskes & Lew 2008, The MIR Flickr Retrieval Evaluation. `*_r1.txt`, the stricter annotation of 14 of the
labels, is not used. The publisher gives no checksums, so none are checked.
"""

import re
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from nacgen.data.folder import ImageFiles
from nacgen.errors import DataError, DataNotFoundError

CLASSES = (
    "animals", "baby", "bird", "car", "clouds", "dog", "female", "flower", "food", "indoor", "lake", "male",
    "night", "people", "plant_life", "portrait", "river", "sea", "sky", "structures", "sunset", "transport",
    "tree", "water",
)  # fmt: skip
ANNOTATIONS = "mirflickr25k_annotations_v080"
IMAGE_NAME = re.compile(r"im([1-9][0-9]*)\.jpg")


def list_flickr25k(root: Path) -> ImageFiles:
    """Find the images of FLICKR-25K in the order of their numbers, and read their labels, bool `(n, 24)`.

    `root` holds `mirflickr/`, with `im1.jpg` and so on, and beside it `mirflickr25k_annotations_v080/`; or it is
    `mirflickr/` itself. Some images have no label.
    """
    folder = root if root.name == "mirflickr" else root / "mirflickr"
    annotations = folder.parent / ANNOTATIONS
    how = (
        "Get mirflickr25k.zip and mirflickr25k_annotations_v080.zip from press.liacs.nl/mirflickr; then "
        f"`unzip mirflickr25k.zip -d {folder.parent}; unzip mirflickr25k_annotations_v080.zip -d {annotations}`."
    )
    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    numbers = sorted(int(match[1]) for match in map(IMAGE_NAME.fullmatch, names) if match)
    if not numbers:
        raise DataNotFoundError(
            f"FLICKR-25K should lie in {folder}, but im1.jpg is missing there. {how}"
        )
    for expected, number in enumerate(numbers, start=1):
        if number != expected:
            raise DataError(
                f"images in {folder} must be numbered without a gap, but there is im{number}.jpg and no "
                f"im{expected}.jpg. Unpack mirflickr25k.zip again."
            )
    missing = [name for name in CLASSES if not (annotations / f"{name}.txt").is_file()]
    if missing:
        raise DataNotFoundError(
            f"the 24 labels of FLICKR-25K should lie in {annotations}, but {len(missing)} files are missing "
            f"there, {missing[0]}.txt first. {how}"
        )
    paths = tuple(str(folder / f"im{number}.jpg") for number in numbers)
    columns = [_read_column(annotations / f"{name}.txt", len(paths)) for name in CLASSES]
    return ImageFiles(paths, torch.stack(columns, dim=1), CLASSES, str(folder))


def _read_column(path: Path, num_images: int) -> Bool[Tensor, " n"]:
    """Read which images have a label from the list of their numbers, counted from 1."""
    column = torch.zeros(num_images, dtype=torch.bool)
    for line in path.read_text(encoding="utf-8", errors="replace").split():
        number = int(line) if line.isascii() and line.isdigit() else 0
        if not 1 <= number <= num_images:
            raise DataError(
                f"{path} must list numbers of images, 1 to {num_images}, got {line!r}. Unpack both archives "
                "again."
            )
        column[number - 1] = True
    return column
