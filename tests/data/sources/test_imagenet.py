from pathlib import Path

import pytest
import torch

from nacgen.data.datasets import load_dataset, load_splits
from nacgen.data.lazy import LazyImageDataset
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError
from tests.data.files import write_photographs

TRAIN = (
    "n01440764/n01440764_10026.JPEG", "n01440764/n01440764_9.JPEG", "n01443537/n01443537_2.JPEG",
    "n15075141/n15075141_7.JPEG",
)  # fmt: skip
VAL = ("n01440764/ILSVRC2012_val_00000293.JPEG", "n15075141/ILSVRC2012_val_00000001.JPEG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "train", TRAIN, (40, 30))
    write_photographs(tmp_path / "val", VAL, (30, 40))
    return tmp_path


def test_imagenet_is_never_held_in_memory(root: Path) -> None:
    dataset = load_dataset("imagenet", "train", root, image_size=24)
    assert isinstance(dataset, LazyImageDataset)
    assert dataset.paths == tuple(str(root / "train" / name) for name in TRAIN)
    assert dataset.class_names == ("n01440764", "n01443537", "n15075141")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1, 2]
    assert dataset.read(torch.tensor([3, 0])).shape == (2, 3, 24, 24)


def test_validation_images_get_the_class_numbers_of_training_images(root: Path) -> None:
    train, test = load_splits("imagenet", root, image_size=24)
    assert (train.split, test.split) == ("train", "test")
    assert test.labels is not None
    assert test.labels.tolist() == [0, 2]
    assert test.class_names == train.class_names


def test_a_size_must_be_given(root: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"those of imagenet .* Add --data\.image-size"):
        load_dataset("imagenet", "train", root)


def test_unsorted_validation_images_are_refused(root: Path) -> None:
    write_photographs(root / "val", ["ILSVRC2012_val_00000002.JPEG"])
    with pytest.raises(
        DataError,
        match=r"val/n01440764, but ILSVRC2012_val_00000002\.JPEG lies in none\. "
        r"Sort them into synset folders\. .*torchvision\.datasets\.ImageNet",
    ):
        load_dataset("imagenet", "test", root, image_size=24)


def test_folders_of_other_names_are_refused(root: Path) -> None:
    write_photographs(root / "val" / "images", ["1.JPEG"])
    with pytest.raises(DataError, match="synsets, like n01440764, got images"):
        load_dataset("imagenet", "test", root, image_size=24)


def test_a_missing_folder_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError,
        match=rf"in {tmp_path}, but the folder val is missing .*ILSVRC2012_img_val\.tar",
    ):
        load_dataset("imagenet", "test", tmp_path, image_size=24)
