import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nacgen.data.datasets import load_dataset
from nacgen.errors import DataError, DataNotFoundError


def write(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 200).save(path)


def cifar(folder: Path, payload: object) -> Path:
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()
    (batches / "test_batch").write_bytes(pickle.dumps(payload, protocol=2))
    return folder


def test_cifar10_is_read_in_its_own_layout(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072)).astype(np.uint8)
    root = cifar(tmp_path, {b"data": pixels, b"labels": [3, 1, 4, 1]})
    dataset = load_dataset("cifar10", "test", root)
    assert (dataset.images.numpy() == pixels.reshape(4, 3, 32, 32)).all()
    assert dataset.class_names[3] == "cat"


def test_a_hostile_cifar_batch_runs_nothing(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "canary",)

    with pytest.raises(DataError, match="is not loaded"):
        load_dataset("cifar10", "test", cifar(tmp_path, Hostile()))
    assert not (tmp_path / "canary").exists()


def test_a_missing_archive_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"data_batch_1 is missing .*download=True"):
        load_dataset("cifar10", "train", tmp_path)


def test_a_folder_is_read_with_its_classes(tmp_path: Path) -> None:
    write(tmp_path / "cat" / "deep" / "1.PNG")
    write(tmp_path / "dog" / "1.jpg", mode="L")
    dataset = load_dataset("folder", data_dir=tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.images.shape == (2, 3, 8, 8)


def test_bad_images_are_named_together(tmp_path: Path) -> None:
    write(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"2 of 3 are not.*cut\.png.*text\.png"):
        load_dataset("folder", data_dir=tmp_path)


def test_empty_folders_and_mixed_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="none was found"):
        load_dataset("folder", data_dir=tmp_path)
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", (9, 12))
    with pytest.raises(DataError, match=r"\(12, 9\)"):
        load_dataset("folder", data_dir=tmp_path)
    assert load_dataset("folder", data_dir=tmp_path, image_size=8).image_size == 8
