import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from nacgen.data.datasets import load_dataset
from nacgen.data.sources import cifar
from nacgen.errors import DataError, DataNotFoundError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
FINE = [b"apple", b"aquarium_fish", *(b"class_%d" % i for i in range(2, 100))]


def write_cifar10(root: Path, payload: object, name: str = "test_batch") -> Path:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(payload, protocol=2))
    return root


def write_cifar100(root: Path, labels: list[int], names: object = FINE) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir()
    batch = {b"data": PIXELS, b"fine_labels": labels, b"coarse_labels": [0, 0, 0, 0]}
    (folder / "train").write_bytes(pickle.dumps(batch, protocol=2))
    meta = {b"fine_label_names": names, b"coarse_label_names": [b"fish"]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return root


def test_cifar10_is_read_in_its_own_layout(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path, {b"data": PIXELS, b"labels": [3, 1, 4, 1]})
    for place in (root, root / "cifar-10-batches-py"):
        dataset = load_dataset("cifar10", "test", place)
        assert (dataset.read(torch.arange(4)).numpy() == PIXELS.reshape(4, 3, 32, 32)).all()
        assert dataset.labels is not None
        assert [dataset.class_names[i] for i in dataset.labels] == [
            "cat", "automobile", "deer", "automobile",
        ]  # fmt: skip


def test_the_training_batches_follow_each_other(tmp_path: Path) -> None:
    for i in range(1, 6):
        batch = {b"data": np.full((2, 3072), i, np.uint8), b"labels": [i, i]}
        write_cifar10(tmp_path, batch, f"data_batch_{i}")
    dataset = load_dataset("cifar10", "train", tmp_path)
    assert dataset.read(torch.arange(10))[:, 0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_cifar100_has_its_fine_classes_and_their_names(tmp_path: Path) -> None:
    root = write_cifar100(tmp_path, [99, 0, 1, 1])
    for place in (root, root / "cifar-100-python"):
        dataset = load_dataset("cifar100", "train", place)
        assert (dataset.read(torch.arange(4)).numpy() == PIXELS.reshape(4, 3, 32, 32)).all()
        assert dataset.labels is not None
        assert dataset.labels.tolist() == [99, 0, 1, 1]
        assert dataset.class_names[:2] == ("apple", "aquarium_fish")
        assert len(dataset.class_names) == 100


def test_images_are_brought_to_another_size(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path, {b"data": PIXELS, b"labels": [3, 1, 4, 1]})
    assert load_dataset("cifar10", "test", root, image_size=16).read(torch.arange(4)).shape == (
        4, 3, 16, 16,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["test_batch", "meta", "train"])
def test_a_hostile_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "canary",)

    dataset, split = ("cifar10", "test") if name == "test_batch" else ("cifar100", "train")
    if dataset == "cifar10":
        write_cifar10(tmp_path, Hostile())
    else:
        write_cifar100(tmp_path, [0, 0, 0, 0])
        (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(DataError, match="is not loaded"):
        load_dataset(dataset, split, tmp_path)
    assert not (tmp_path / "canary").exists()


def test_a_missing_archive_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError,
        match=rf"in {tmp_path}/cifar-10-batches-py, but data_batch_1 is missing .*"
        rf"torchvision\.datasets\.CIFAR10\('{tmp_path}', download=True\)",
    ):
        load_dataset("cifar10", "train", tmp_path)
    with pytest.raises(
        DataNotFoundError, match=r"cifar-100-python, but train is missing .*CIFAR100\("
    ):
        load_dataset("cifar100", "train", tmp_path)
    root = write_cifar100(tmp_path, [0, 0, 0, 0])
    (root / "cifar-100-python" / "meta").unlink()
    with pytest.raises(DataNotFoundError, match="meta is missing"):
        load_dataset("cifar100", "train", root)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ([1, 2], "must hold a dictionary, got list"),
        ({b"data": PIXELS[:, :9], b"labels": [0] * 4}, r"got uint8 of shape \(4, 9\)"),
        ({b"data": PIXELS.astype(np.float32), b"labels": [0] * 4}, "got float32 of shape"),
        ({b"labels": [0] * 4}, "got NoneType of shape None"),
        ({b"data": PIXELS, b"labels": [0] * 3}, "each of 4 images under labels, got 3"),
        ({b"data": PIXELS, b"fine_labels": [0] * 4}, "under labels, got NoneType"),
        ({b"data": PIXELS, b"labels": [0, 1, 10, 2]}, "between 0 and 9, got 10"),
    ],
)
def test_a_batch_that_is_none_is_refused(payload: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset("cifar10", "test", write_cifar10(tmp_path, payload))


def test_a_cut_batch_and_wrong_names_are_refused(tmp_path: Path) -> None:
    root = write_cifar10(tmp_path, {b"data": PIXELS, b"labels": [0] * 4})
    path = root / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=f"{path} is no file of CIFAR's archive"):
        load_dataset("cifar10", "test", root)
    root = write_cifar100(tmp_path, [0] * 4, FINE[:20])
    with pytest.raises(DataError, match="must name 100 classes under fine_label_names, got 20"):
        load_dataset("cifar100", "train", root)


def test_a_batch_as_large_as_the_published_one_must_be_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_cifar10(tmp_path, {b"data": PIXELS, b"labels": [0] * 4})
    path = root / "cifar-10-batches-py" / "test_batch"
    _, published = cifar.PUBLISHED["test_batch"]
    monkeypatch.setitem(cifar.PUBLISHED, "test_batch", (4, published))
    with pytest.raises(DataError, match=f"{path} must be the published file with MD5 {published}"):
        load_dataset("cifar10", "test", root)
    own = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(cifar.PUBLISHED, "test_batch", (4, own))
    assert len(load_dataset("cifar10", "test", root)) == 4


def test_checksums_are_those_that_torchvision_knows() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    known = {
        name: md5
        for dataset in (datasets.CIFAR10, datasets.CIFAR100)
        for name, md5 in (*dataset.train_list, *dataset.test_list)
    }
    assert {name: md5 for name, (_, md5) in cifar.PUBLISHED.items()} == known
