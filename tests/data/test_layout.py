"""Layouts of image folders that people have: read as meant, or refused by name."""

from pathlib import Path

import pytest
import torch

from nacgen.data.datasets import Dataset, load_dataset, load_splits
from nacgen.errors import DataError, DataNotFoundError
from tests.data.files import write_photographs


def make(root: Path, *names: str) -> Path:
    """Images for each name: six of a folder, or one file; other files are empty."""
    images: list[str] = []
    for name in names:
        if name.endswith("/"):
            images += [f"{name}{i}.png" for i in range(6)]
        elif name.endswith(".png"):
            images.append(name)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    write_photographs(root, images, (9, 8))
    return root


def contents(dataset: Dataset) -> set[bytes]:
    return {image.numpy().tobytes() for image in dataset.read(torch.arange(len(dataset)))}


@pytest.mark.parametrize(
    ("names", "classes", "train", "held_out"),
    [
        (("train/a/", "train/b/", "test/a/", "test/b/"), "ab", "train", "test"),
        (("training/a/", "training/b/", "validation/a/"), "ab", "training", "validation"),
        (("Train/a/", "Train/b/", "VAL/a/", "Test/b/"), "ab", "Train", "Test"),
        (("TRAIN/", "Valid/"), "", "TRAIN", "Valid"),
        (("train2017/", "val2017/", "annotations/a.json"), "", "train2017", "val2017"),
        (("training_set/a/", "training_set/b/", "test_set/a/"), "ab", "training_set", "test_set"),
        (("x/train/a/", "x/train/b/", "x/test/a/", "README"), "ab", "x/train", "x/test"),
        (("x/y/train/a/", "x/y/train/b/", "x/y/dev/a/", "__MACOSX/x/y/train/a/"), "ab", "x/y/train", "x/y/dev"),
        (("x/train/x/a/", "x/train/x/b/", "x/test/x/a/"), "ab", "x/train/x", "x/test"),
        (("images/train/", "images/val/", "labels/train/0.txt"), "", "images/train", "images/val"),
        (
            ("train/images/", "train/labels/0.txt", "valid/images/", "test/images/", "data.yaml"),
            "", "train/images", "test/images",
        ),
        (("train/a/images/", "train/b/images/", "val/images/", "wnids.txt"), "ab", "train", "val/images"),
        (("train/", "train.csv", "test/", "test.csv"), "", "train", "test"),
        (("trainval/a/", "trainval/b/", "test/a/"), "ab", "trainval", "test"),
        (("train/car/", "train/train/", "test/train/"), ["car", "train"], "train", "test"),
    ],
)  # fmt: skip
def test_splits_of_the_field_are_read(
    names: tuple[str, ...], classes: list[str], train: str, held_out: str, tmp_path: Path
) -> None:
    found, test = load_splits("folder", make(tmp_path, *names), 8)
    assert found.class_names == tuple(classes)
    assert found.files is not None
    assert found.files.root == str(tmp_path / train)
    assert test.files is not None
    assert test.files.root.startswith(str(tmp_path / held_out))
    assert not contents(found) & contents(test)
    assert len(found) == sum(6 for name in names if name.startswith(train) and name.endswith("/"))


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("a/", "b/"), "ab"),
        (("x/a/", "x/b/", "x/notes.txt"), "ab"),
        (("x/y/a/", "x/y/b/"), "ab"),
        (("a/",), "a"),
        (("a/deep/er/",), "a"),
        (("./",), ""),
        (("images/", "labels/0.txt"), ""),
        (("jpg/", "imagelabels.mat"), ""),
        (("CUB/images/a/", "CUB/images/b/", "CUB/attributes/0.txt"), "ab"),
        (("VOC/JPEGImages/", "VOC/Annotations/0.xml"), ""),
        (("train/a/", "train/b/", "labels.csv"), "ab"),
        (("bullet_train/", "latest/", "trained/"), ["bullet_train", "latest", "trained"]),
        (("a/images/", "b/images/"), "ab"),
        (("masks/", "hats/"), ["hats", "masks"]),
    ],
)
def test_without_held_out_images_a_fifth_is_held_out(
    names: tuple[str, ...], classes: list[str], tmp_path: Path
) -> None:
    train, test = load_splits("folder", make(tmp_path, *names), 8)
    assert (train.class_names, test.split) == (tuple(classes), "held-out fifth")
    assert len(train) + len(test) == 6 * sum(name.endswith("/") for name in names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/", "b/", "test/a/"), r"must lie in .*/train if there are others in 'test', but lie in 'a', 'b'\."),
        (("0.png", "1.png", "val/"), r"must lie in .*/train if .* 'val', but lie in '0\.png'"),
        (("test/",), "but lie in no other folder"),
        (("test/a/", "val/a/"), "there are others in 'test', 'val', but lie in no other"),
        (("train/a/", "training/a/", "test/a/"), "'train', 'training' mean the same"),
        (("train/a/", "Test/", "test/"), "'Test', 'test' mean the same"),
        (("car/", "plane/", "train/"), "/train may be a split or a class, because 'car', 'plane' in"),
        (("trainA/", "trainB/", "testA/", "testB/"), "'testA', 'testB', 'trainA', 'trainB' could be either"),
        (("seg_train/a/", "seg_test/a/", "seg_pred/"), "'seg_test', 'seg_train' could be"),
        (("DIV2K_train_HR/", "DIV2K_valid_HR/"), "could be either"),
        (("a/train/", "a/test/", "b/train/", "b/test/"), "but those in .*/a/test seem to be held out"),
        (("train/a/", "train/val/a/", "test/a/"), "but those in .*/train/val seem to be held out"),
        (("images/", "masks/"), r"beside .*/images there are .* 'images', 'masks'\. Give --data-dir .*/images"),
        (("d/v/JPEGImages/", "d/v/SegmentationClass/", "d/v/Annotations/0.xml"), "named JPEGImages must be"),
        (("v7/JPEGImages/", "v7/Masks/", "v8/JPEGImages/", "v8/Masks/"), "beside .*/v7/JPEGImages"),
        (("train/images/", "train/masks/", "test/images/"), "beside .*/train/images"),
        (("train/", "test/images/", "test/gt/"), "beside .*/test/images"),
        (("images/training/", "images/validation/", "annotations/training/"), "--data-dir .*/images, or"),
        (("imagesTr/", "imagesTs/", "labelsTr/"), "'imagesTr', 'imagesTs', 'labelsTr' could be either"),
        (("cats/", "dogs/", "hold-out/"), "there are others in 'hold-out', but lie in 'cats', 'dogs'"),
        (("x/train_1.png", "x/train_2.png", "x/test_1.png"), "several splits: 'test_1.png', 'train_1.png'"),
        (("COCO_train2014_1.png", "COCO_val2014_1.png"), "several splits: 'COCO_train2014_1.png', 'COCO_val"),
        (("a\\train\\1.png", "b.png"), r"a\\train\\1\.png holds backslashes .* with unzip or 7z"),
        (("a/1.png", "a/1_mask.png", "b/2.png"), "a/1_mask.png seems to be the mask of another"),
        (("annotations/val/", "leftImg8bit/train/", "leftImg8bit/val/"), "those in .*/val seem to be held out"),
    ],
)  # fmt: skip
def test_what_could_be_misread_is_refused_by_name(
    names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        load_splits("folder", make(tmp_path, *names), 8)


def test_a_split_that_is_not_used_is_named(tmp_path: Path) -> None:
    make(tmp_path, "train/a/", "val/a/", "test/a/", "extra/", "docs/a.txt", "0.png", "notes.txt")
    make(tmp_path, "train/.hidden", "train/a/1.avif", "train/b/")
    train, test = load_splits("folder", tmp_path, 8)
    assert train.files is not None
    assert train.files.notes == ("not used: 'val', 'extra', '0.png'",)
    assert train.files.passed_over == {".txt": 2, "hidden": 1, ".avif": 1}
    assert (len(train), len(test)) == (12, 6)


def test_one_folder_is_not_two_splits(tmp_path: Path) -> None:
    make(tmp_path, "train/a/")
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(DataError, match=f"{tmp_path}/test is {tmp_path}/train"):
        load_splits("folder", tmp_path, 8)
    (tmp_path / "test").unlink()
    make(tmp_path, "test/a/")
    (tmp_path / "train" / "b").symlink_to("../test/a")
    with pytest.raises(DataError, match=f"{tmp_path}/train/b is a link to one in {tmp_path}/test"):
        load_splits("folder", tmp_path, 8)
    (tmp_path / "train" / "b").unlink()
    (tmp_path / "train" / "a" / "6.png").symlink_to("../../test/a/0.png")
    with pytest.raises(DataError, match=f"a/6.png is a link to one in {tmp_path}/test"):
        load_splits("folder", tmp_path, 8)
    (tmp_path / "train" / "a" / "6.png").unlink()
    (tmp_path / "test" / "c").symlink_to("../train/a")
    with pytest.raises(DataError, match=f"/test/c is a link to one in {tmp_path}/train"):
        load_splits("folder", tmp_path, 8)
    (tmp_path / "test").rename(tmp_path / "old")
    (tmp_path / "test").symlink_to("train/a")
    with pytest.raises(DataError, match="or one is a part of the other"):
        load_splits("folder", tmp_path, 8)


@pytest.mark.parametrize(
    ("names", "passed_over"),
    [
        (("cats/a/", "cats/b/", "dogs/a/0.heic", "dogs/b/0.heic", "notes.txt"), {".heic": 2, ".txt": 1}),
        (("images/", "more/0.avif"), {".avif": 1}),
        (("x/train/a/", "x/test/a/", "x/extra/0.avif", "0.zip"), {".avif": 1, ".zip": 1}),
    ],
)  # fmt: skip
def test_no_file_beside_the_images_vanishes(
    names: tuple[str, ...], passed_over: dict[str, int], tmp_path: Path
) -> None:
    files = load_dataset("folder", "train", make(tmp_path, *names), 8).files
    assert files is not None
    assert files.passed_over == passed_over


def test_a_class_is_one_however_its_accents_are_encoded(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    make(
        tmp_path, f"train/{composed}/", f"train/{decomposed}/", "train/tea/", f"test/{decomposed}/"
    )
    train, test = load_splits("folder", tmp_path, 8)
    assert train.class_names == test.class_names == (composed, "tea")
    assert torch.equal(train.labels.bincount(), torch.tensor([12, 6]))  # type: ignore[union-attr]


def test_names_that_only_look_like_splits_or_masks_are_read(tmp_path: Path) -> None:
    make(tmp_path, "a/train_1.png", "a/test_1.png", "a/face_mask.png", "a/2.png", "a/3.png")
    assert len(load_dataset("folder", "train", tmp_path, 8)) == 5
    make(tmp_path / "x", "trainval/train_1.png", "trainval/val_1.png")
    assert len(load_dataset("folder", "train", tmp_path / "x", 8)) == 2


def test_a_held_out_split_can_be_read_alone(tmp_path: Path) -> None:
    assert len(load_dataset("folder", "test", make(tmp_path, "Testing/a/"), 8)) == 6
    make(tmp_path / "x", "train/a/", "test/a.txt")
    with pytest.raises(DataNotFoundError, match=r"/test must hold images .*; passed over: 1 \.txt"):
        load_splits("folder", tmp_path / "x", 8)
