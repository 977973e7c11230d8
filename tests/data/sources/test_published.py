"""CIFAR-10, CIFAR-100 and STL-10: small archives in the published layout, whose checksums torchvision is told."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from nacgen.data.datasets import load_dataset
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
LARGE = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96)).astype(np.uint8)
STL10_NAMES = (
    "airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck",
)  # fmt: skip
FINE = ["apple", "aquarium_fish", *(f"class_{i}" for i in range(2, 100))]


def accept(monkeypatch: pytest.MonkeyPatch, kind: Any, folder: Path) -> None:
    """Let torchvision take the files of a folder for the published ones."""

    def md5(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for files in ("train_list", "test_list"):
        monkeypatch.setattr(kind, files, [[name, md5(name)] for name, _ in getattr(kind, files)])
    if hasattr(kind, "meta"):
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5(kind.meta["filename"])})


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=2))


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    for i in range(1, 6):
        batch = {"data": np.full((2, 3072), i, np.uint8), "labels": [i, i]}
        write(folder / f"data_batch_{i}", batch)
    write(folder / "test_batch", {"data": PIXELS, "labels": [3, 1, 4, 1]})
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    write(folder / "batches.meta", {"label_names": names.split()})
    accept(monkeypatch, datasets.CIFAR10, folder)
    return folder


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cifar-100-python"
    batch = {"data": PIXELS, "fine_labels": [99, 0, 1, 1], "coarse_labels": [0, 0, 0, 0]}
    write(folder / "train", batch)
    write(folder / "test", batch)
    write(folder / "meta", {"fine_label_names": FINE, "coarse_label_names": ["fish"]})
    accept(monkeypatch, datasets.CIFAR100, folder)
    return folder


@pytest.fixture
def stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images are stored channel by channel and, within a channel, column by column."""
    folder = tmp_path / "stl10_binary"
    stored = bytes(
        LARGE[n, c, y, x] for n in range(3) for c in range(3) for x in range(96) for y in range(96)
    )
    for split in ("train", "test", "unlabeled"):
        write(folder / f"{split}_X.bin", stored)
    for split in ("train", "test"):
        write(folder / f"{split}_y.bin", bytes([1, 10, 4]))
    write(folder / "class_names.txt", "\n".join(STL10_NAMES).encode())
    accept(monkeypatch, datasets.STL10, folder)
    return folder


def test_cifar10_is_read_in_its_own_layout(cifar10: Path) -> None:
    for place in (cifar10.parent, cifar10):
        dataset = load_dataset("cifar10", "test", place)
        assert (dataset.read(torch.arange(4)).numpy() == PIXELS.reshape(4, 3, 32, 32)).all()
        assert dataset.labels is not None
        assert [dataset.class_names[i] for i in dataset.labels] == [
            "cat", "automobile", "deer", "automobile",
        ]  # fmt: skip
        train = load_dataset("cifar10", "train", place)
        assert train.read(torch.arange(10))[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_cifar100_has_its_fine_classes_and_their_names(cifar100: Path) -> None:
    for place in (cifar100.parent, cifar100):
        dataset = load_dataset("cifar100", "train", place)
        assert (dataset.read(torch.arange(4)).numpy() == PIXELS.reshape(4, 3, 32, 32)).all()
        assert dataset.labels is not None
        assert dataset.labels.tolist() == [99, 0, 1, 1]
        assert dataset.class_names == tuple(FINE)


def test_images_are_brought_to_another_size(cifar10: Path) -> None:
    images = load_dataset("cifar10", "test", cifar10, image_size=16).read(torch.arange(4))
    assert images.shape == (4, 3, 16, 16)


def test_stl10_is_as_torchvision_reads_it(stl10: Path) -> None:
    for split in ("train", "test"):
        theirs = datasets.STL10(stl10.parent, split)
        for place in (stl10.parent, stl10):
            dataset = load_dataset("stl10", split, place)
            assert (dataset.read(torch.arange(3)).numpy() == LARGE).all()
            assert (theirs.data == LARGE).all()
            assert dataset.labels is not None
            assert dataset.labels.tolist() == theirs.labels.tolist() == [0, 9, 3]  # type: ignore[union-attr]
            assert list(dataset.class_names) == theirs.classes


def test_unlabeled_images_need_no_labels_and_have_none(stl10: Path) -> None:
    (stl10 / "class_names.txt").unlink()
    dataset = load_dataset("stl10", "unlabeled", stl10, image_size=32)
    assert dataset.labels is None
    assert dataset.read(torch.arange(3)).shape == (3, 3, 32, 32)
    with pytest.raises(ConfigurationError, match="train, test, got 'unlabeled'"):
        load_dataset("cifar10", "unlabeled", stl10)


FILES = [
    ("cifar10", "train", "data_batch_1", ("test_batch",)),
    ("cifar10", "test", "batches.meta", ("data_batch_1",)),
    ("cifar100", "train", "train", ("test",)),
    ("cifar100", "test", "meta", ("train",)),
    ("stl10", "train", "train_X.bin", ("test_X.bin", "unlabeled_X.bin")),
    ("stl10", "test", "test_y.bin", ("train_y.bin", "unlabeled_X.bin")),
    ("stl10", "train", "class_names.txt", ("test_X.bin", "test_y.bin")),
]


@pytest.mark.parametrize(("name", "split", "needed", "others"), FILES)
def test_a_missing_file_of_the_split_says_how_to_get_it(
    name: str, split: str, needed: str, others: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    for other in others:
        (folder / other).unlink()
    load_dataset(name, split, folder)
    (folder / needed).unlink()
    with pytest.raises(
        DataNotFoundError,
        match=rf"{name.upper()} should lie in {folder}, but {needed} is missing there\. .*"
        rf"torchvision\.datasets\.{name.upper()}\('{folder.parent}', download=True\)",
    ):
        load_dataset(name, split, folder)


@pytest.mark.parametrize(
    ("name", "split", "file"), [file[:3] for file in FILES if file[2] != "class_names.txt"]
)
def test_a_file_that_is_not_the_published_one_is_refused_unread(
    name: str, split: str, file: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "canary",)

    folder: Path = request.getfixturevalue(name)
    write(folder / file, Hostile())
    with pytest.raises(DataError, match=f"{folder / file} must be the published file with MD5 "):
        load_dataset(name, split, folder)
    assert not (tmp_path / "canary").exists()
