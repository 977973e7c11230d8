"""MNIST and Fashion-MNIST: small IDX files in the published layouts, read as torchvision reads them."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from nacgen.data.datasets import load_dataset
from nacgen.data.sources.mnist import CLASSES, FILES, MD5
from nacgen.errors import DataError, DataNotFoundError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
LABELS = np.array([9, 0, 3, 3, 7], np.uint8)


def idx(array: np.ndarray) -> bytes:
    """Two zero bytes, the type (8: uint8), the number of axes, their lengths and the values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture(params=["MNIST", "FashionMNIST"])
def raw(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / request.param / "raw"
    folder.mkdir(parents=True)
    for images, labels in FILES.values():
        for name, array in ((images, PIXELS), (labels, LABELS)):
            (folder / name).write_bytes(idx(array))
            digest = hashlib.md5(idx(array)).hexdigest()
            monkeypatch.setitem(MD5[request.param], name, digest)
    return folder


def dataset_name(raw: Path) -> str:
    return {"MNIST": "mnist", "FashionMNIST": "fashion-mnist"}[raw.parent.name]


def test_images_and_labels_are_torchvisions(raw: Path) -> None:
    name = dataset_name(raw)
    kind = getattr(datasets, raw.parent.name)
    for split in ("train", "test"):
        theirs = kind(raw.parent.parent, train=split == "train")
        ours = load_dataset(name, split, raw.parent.parent, image_size=28)
        assert ours.labels is not None
        assert torch.equal(ours.read(torch.arange(5)), theirs.data[:, None].expand(5, 3, 28, 28))
        assert torch.equal(ours.labels, theirs.targets)
    assert CLASSES["FashionMNIST"] == tuple(datasets.FashionMNIST.classes)


def test_images_are_padded_to_32_px_before_they_are_resized(raw: Path) -> None:
    name = dataset_name(raw)
    images = load_dataset(name, "test", raw).read(torch.arange(5))
    assert images.shape == (5, 3, 32, 32)
    assert (images[:, 1, 2:30, 2:30].numpy() == PIXELS).all()
    assert images.sum() == 3 * int(PIXELS.sum())  # all around is black
    assert load_dataset(name, "test", raw, image_size=16).read(torch.arange(5)).shape[-1] == 16


def test_files_may_be_compressed_and_lie_alone(raw: Path) -> None:
    expected = load_dataset(dataset_name(raw), "train", raw.parent.parent).read(torch.arange(5))
    for path in list(raw.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=1))
        path.unlink()
    for place in (raw, raw.parent, raw.parent.parent):
        images = load_dataset(dataset_name(raw), "train", place).read(torch.arange(5))
        assert torch.equal(images, expected)


def test_missing_and_damaged_files_are_named(raw: Path) -> None:
    name, labels = dataset_name(raw), raw / "train-labels-idx1-ubyte"
    stored = labels.read_bytes()
    labels.unlink()
    with pytest.raises(DataNotFoundError, match=r"train-labels-idx1-ubyte.*download=True"):
        load_dataset(name, "train", raw)
    labels.write_bytes(stored[:-1] + b"\1")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte must hold the published file"):
        load_dataset(name, "train", raw)
    labels.unlink()
    labels.with_name(f"{labels.name}.gz").write_bytes(gzip.compress(stored)[:-9])
    with pytest.raises(DataError, match=r"should be readable, but is not"):
        load_dataset(name, "train", raw)
