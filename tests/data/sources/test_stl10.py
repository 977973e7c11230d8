import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from nacgen.data.datasets import load_dataset
from nacgen.data.sources import stl10
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError

NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96)).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images are stored channel by channel and, within a channel, column by column."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    stored = bytes(
        IMAGES[n, c, y, x] for n in range(3) for c in range(3) for x in range(96) for y in range(96)
    )
    for split in ("train", "test", "unlabeled"):
        (folder / f"{split}_X.bin").write_bytes(stored)
    for split in ("train", "test"):
        (folder / f"{split}_y.bin").write_bytes(bytes([1, 10, 4]))
    (folder / "class_names.txt").write_text("\n".join(NAMES))
    return tmp_path


def test_stl10_is_read_in_its_own_layout(root: Path) -> None:
    for split in ("train", "test"):
        for place in (root, root / "stl10_binary"):
            dataset = load_dataset("stl10", split, place)
            assert (dataset.read(torch.arange(3)).numpy() == IMAGES).all()
            assert dataset.labels is not None
            assert [dataset.class_names[i] for i in dataset.labels] == ["airplane", "truck", "cat"]


def test_stl10_is_as_torchvision_reads_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    theirs = datasets.STL10(root, "train")
    ours = load_dataset("stl10", "train", root)
    assert (ours.read(torch.arange(3)).numpy() == theirs.data).all()
    assert ours.labels is not None
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert list(ours.class_names) == theirs.classes


def test_unlabelled_images_need_no_labels_and_have_none(root: Path) -> None:
    (root / "stl10_binary" / "class_names.txt").unlink()
    dataset = load_dataset("stl10", "unlabeled", root, image_size=32)
    assert dataset.labels is None
    assert dataset.read(torch.arange(3)).shape == (3, 3, 32, 32)
    with pytest.raises(ConfigurationError, match="train, test, got 'unlabeled'"):
        load_dataset("cifar10", "unlabeled", root)


@pytest.mark.parametrize("name", ["train_X.bin", "train_y.bin", "class_names.txt"])
def test_a_missing_file_says_how_to_get_it(root: Path, name: str) -> None:
    (root / "stl10_binary" / name).unlink()
    with pytest.raises(
        DataNotFoundError,
        match=rf"in {root}/stl10_binary, but {name} is missing .*STL10\('{root}', download=True\)",
    ):
        load_dataset("stl10", "train", root)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_X.bin", b"1234", "27648 bytes, got 4 bytes"),
        ("train_X.bin", b"", "got 0 bytes"),
        ("train_y.bin", bytes([1, 2]), r"each of 3 images, got 10 names and 2 labels"),
        ("train_y.bin", bytes([1, 0, 2]), "between 1 and 10, got 0"),
        ("train_y.bin", bytes([1, 11, 2]), "between 1 and 10, got 11"),
        ("class_names.txt", b"cat\ndog", "got 2 names and 3 labels"),
    ],
)
def test_a_damaged_file_is_refused(root: Path, name: str, content: bytes, message: str) -> None:
    (root / "stl10_binary" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset("stl10", "train", root)


@pytest.mark.parametrize("name", ["train_X.bin", "train_y.bin"])
def test_a_file_as_large_as_the_published_one_must_be_it(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, published = stl10.PUBLISHED[name]
    monkeypatch.setitem(stl10.PUBLISHED, name, (3, published))
    with pytest.raises(DataError, match=f"{name} must be the published file with MD5 {published}"):
        load_dataset("stl10", "train", root)
    own = hashlib.md5((root / "stl10_binary" / name).read_bytes()).hexdigest()
    monkeypatch.setitem(stl10.PUBLISHED, name, (3, own))
    assert len(load_dataset("stl10", "train", root)) == 3


def test_checksums_are_those_that_torchvision_knows() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    known = dict((*datasets.STL10.train_list, *datasets.STL10.test_list))
    assert {name: md5 for name, (_, md5) in stl10.PUBLISHED.items()} == known
