import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nacgen.data import cache
from nacgen.data.datasets import Dataset, ImageDataset, load_dataset, load_splits
from nacgen.data.folder import list_images
from nacgen.data.provenance import dataset_fingerprint
from nacgen.system.files import open_regular
from tests.data.files import write_photographs


def fingerprint_of(folder: Path | str, max_bytes: int = 2**31) -> dict[str, str | int]:
    return dataset_fingerprint(load_dataset("folder", "train", folder, 8, max_bytes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "data", [f"{'ab'[i % 2]}/{i}.png" for i in range(10)])
    return tmp_path / "data"


@pytest.mark.parametrize("whole", [2**20, 0])
def test_a_fingerprint_is_the_same_wherever_the_files_lie(
    folder: Path, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_WHOLE_BYTES", whole)
    expected = fingerprint_of(folder)
    assert expected["method"] == ("names and contents" if whole else "names, sizes and a sample")
    assert expected["images"] == 10
    assert expected["bytes"] == sum(path.stat().st_size for path in folder.glob("*/*"))
    monkeypatch.chdir(folder.parent)
    for same in (f"{folder}/", "data", "./data/../data", "data/."):
        assert fingerprint_of(same) == fingerprint_of(same, max_bytes=0) == expected
    os.utime(folder / "a" / "0.png", (1, 1))
    shutil.copytree(folder, folder.parent / "copy", copy_function=shutil.copyfile)
    assert fingerprint_of(folder.parent / "copy") == expected
    folder.rename(folder.parent / "moved")
    assert fingerprint_of(folder.parent / "moved") == expected


@pytest.mark.parametrize("whole", [2**20, 0])
def test_a_fingerprint_changes_with_the_files(
    folder: Path, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_WHOLE_BYTES", whole)
    seen = {fingerprint_of(folder)["sha256"]}
    first, second = folder / "a" / "0.png", folder / "b" / "1.png"
    content = first.read_bytes()
    first.write_bytes(content[:-8] + bytes(8))  # of the same size
    seen.add(dataset_fingerprint(load_dataset("folder", "train", folder, 8, 0))["sha256"])
    first.write_bytes(content)
    first.rename(folder / "a" / "00.png")
    seen.add(fingerprint_of(folder)["sha256"])
    (folder / "a" / "00.png").rename(folder / "b" / "0.png")  # into another class
    seen.add(fingerprint_of(folder)["sha256"])
    second.unlink()
    seen.add(fingerprint_of(folder)["sha256"])
    assert len(seen) == 5


def test_of_many_large_files_a_few_beginnings_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, opened = load_dataset("folder", "train", folder, 8), []
    monkeypatch.setattr(cache, "MAX_WHOLE_BYTES", 0)
    monkeypatch.setattr(cache, "SAMPLED_FILES", 3)
    monkeypatch.setattr(cache, "SAMPLED_BYTES", 5)
    monkeypatch.setattr(cache, "open_regular", lambda p: opened.append(p) or open_regular(p))
    dataset_fingerprint(dataset)
    assert [Path(path).name for path in opened] == ["0.png", "8.png", "7.png"]


def test_what_cannot_be_opened_has_a_fingerprint(folder: Path) -> None:
    os.mkfifo(folder / "a" / "pipe.png")
    (folder / "a" / "lost.png").symlink_to("nowhere")
    images = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
    dataset = ImageDataset("folder", "train", images, None, files=list_images(folder))
    assert dataset_fingerprint(dataset)["images"] == 12


def test_parts_have_the_fingerprint_of_the_whole(folder: Path) -> None:
    train, held_out = load_splits("folder", folder, 8)
    whole = fingerprint_of(folder)
    assert dataset_fingerprint(train) == whole | {"images": 8}
    assert dataset_fingerprint(held_out) == whole | {"images": 2}


def test_images_of_ones_own_are_known_by_pixels_and_labels() -> None:
    images = torch.randint(256, (4, 3, 2, 2)).to(torch.uint8)
    own: Dataset = ImageDataset("own", "all", images, torch.arange(4), tuple("abcd"))
    first = dataset_fingerprint(own)
    assert (first["method"], first["bytes"], first["images"]) == ("pixels", 48, 4)
    assert dataset_fingerprint(replace(own, name="other")) == first
    others = (
        replace(own, images=255 - images),
        replace(own, images=images.view(4, 3, 1, 4)),
        replace(own, labels=torch.arange(4).flip(0)),
        replace(own, labels=None),
        replace(own, class_names=tuple("abce")),
    )
    assert len({dataset_fingerprint(each)["sha256"] for each in (own, *others)}) == 6


def test_published_files_are_known_by_their_contents() -> None:
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert dataset_fingerprint(train) == dataset_fingerprint(load_dataset("digits", image_size=8))
    assert dataset_fingerprint(train)["sha256"] != dataset_fingerprint(test)["sha256"]
