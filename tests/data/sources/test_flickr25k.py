from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nacgen.data.datasets import ImageDataset, load_dataset, load_splits
from nacgen.data.lazy import LazyImageDataset
from nacgen.data.sources.flickr25k import CLASSES
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, DataError, DataNotFoundError
from tests.data.files import write_photographs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve photographs: every one is water, the second and eleventh have a dog, no one a bird."""
    write_photographs(tmp_path / "mirflickr", (f"im{i}.jpg" for i in range(1, 13)))
    (tmp_path / "mirflickr" / "doc").mkdir()
    annotations = tmp_path / "mirflickr25k_annotations_v080"
    annotations.mkdir()
    for name in CLASSES:
        (annotations / f"{name}.txt").write_text("")
    (annotations / "water.txt").write_text("".join(f"{i}\r\n" for i in range(1, 13)))
    (annotations / "dog.txt").write_text("2\n11\n")
    (annotations / "dog_r1.txt").write_text("3\n")
    (annotations / "README.txt").write_text("Labels of the MIRFLICKR collection")
    return tmp_path


def test_flickr25k_is_read_in_its_own_layout(root: Path) -> None:
    for place in (root, root / "mirflickr"):
        dataset = load_dataset("flickr25k", "train", place, image_size=16)
        assert isinstance(dataset, ImageDataset)
        assert dataset.images.shape == (12, 3, 16, 16)
        assert dataset.class_names == CLASSES
        assert dataset.labels is not None
        assert dataset.labels.shape == (12, 24)
        assert dataset.labels.dtype == torch.bool
        assert dataset.labels[:, CLASSES.index("water")].all()
        assert dataset.labels[:, CLASSES.index("dog")].nonzero().flatten().tolist() == [1, 10]
        assert int(dataset.labels.sum()) == 14


def test_files_are_in_the_order_of_their_numbers(root: Path) -> None:
    dataset = load_dataset("flickr25k", "train", root, image_size=20)
    for i in range(12):
        photograph = Image.open(root / "mirflickr" / f"im{i + 1}.jpg").convert("RGB")
        cropped = np.asarray(photograph)[:, 2:22]  # 24 x 20
        assert (dataset.read(torch.tensor([i]))[0].permute(1, 2, 0).numpy() == cropped).all()


def test_there_are_24_labels_in_alphabetical_order() -> None:
    assert len(set(CLASSES)) == 24
    assert list(CLASSES) == sorted(CLASSES)


def test_several_labels_an_image_pass_subsets_splits_and_streams(root: Path) -> None:
    train, test = load_splits("flickr25k", root, image_size=16)
    assert (len(train), len(test), test.split) == (10, 2, "held-out fifth")
    assert train.labels is not None
    assert test.labels is not None
    whole = load_dataset("flickr25k", "train", root, image_size=16)
    assert whole.labels is not None
    assert torch.equal(test.labels, whole.labels[4::5])
    stream = ImageStream(train, 4, seed=0)
    batch = stream.batch(8)
    assert batch.labels is not None
    assert torch.equal(batch.labels, train.labels[stream.indices(8)])
    with pytest.raises(ConfigurationError, match="split of flickr25k must be one of train, got"):
        load_dataset("flickr25k", "test", root)


def test_photographs_that_do_not_fit_are_decoded_when_read(root: Path) -> None:
    held = load_dataset("flickr25k", "train", root, image_size=16)
    lazy = load_dataset("flickr25k", "train", root, image_size=16, max_bytes=12 * 768 - 1)
    assert isinstance(lazy, LazyImageDataset)
    assert torch.equal(lazy.read(torch.arange(12)), held.read(torch.arange(12)))
    assert lazy.labels is not None
    assert held.labels is not None
    assert torch.equal(lazy.labels, held.labels)


def test_missing_photographs_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError,
        match=rf"in {tmp_path}/mirflickr, but im1\.jpg is missing .*unzip mirflickr25k\.zip",
    ):
        load_dataset("flickr25k", "train", tmp_path)


def test_missing_labels_say_how_to_get_them(root: Path) -> None:
    annotations = root / "mirflickr25k_annotations_v080"
    (annotations / "bird.txt").unlink()
    (annotations / "sea.txt").unlink()
    with pytest.raises(
        DataNotFoundError,
        match=rf"in {annotations}, but 2 files are missing there, bird\.txt first\. .*"
        rf"unzip mirflickr25k_annotations_v080\.zip -d {annotations}",
    ):
        load_dataset("flickr25k", "train", root)


def test_a_gap_in_the_numbers_is_refused(root: Path) -> None:
    (root / "mirflickr" / "im7.jpg").unlink()
    with pytest.raises(DataError, match=r"there is im8\.jpg and no im7\.jpg"):
        load_dataset("flickr25k", "train", root)


@pytest.mark.parametrize("line", ["13", "0", "-1", "im2.jpg", "٣"])
def test_a_label_of_no_image_is_refused(root: Path, line: str) -> None:
    path = root / "mirflickr25k_annotations_v080" / "tree.txt"
    path.write_text(f"4\n{line}\n")
    with pytest.raises(DataError, match=rf"{path} must list .* 1 to 12, got '{line}'"):
        load_dataset("flickr25k", "train", root)
