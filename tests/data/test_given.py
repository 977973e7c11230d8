"""Images in hand become one data set, whatever form they have."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nacgen.data.decoding import decode
from nacgen.data.given import given_dataset
from nacgen.errors import DataError

PIXELS = torch.arange(4 * 3 * 8 * 8).remainder(251).to(torch.uint8).reshape(4, 3, 8, 8)
LAST = PIXELS.permute(0, 2, 3, 1).numpy()


class Pairs(torch.utils.data.Dataset[Any]):
    """A map-style Dataset as torchvision has them."""

    classes = ("cat", "dog")

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.images[index], index % 2


class HuggingFace:
    """What is used of a `datasets.Dataset`: its length, items as mappings, features with the names of classes."""

    class ClassLabel:
        names = ("cat", "dog")

    def __init__(self, column: str) -> None:
        self.column = column
        self.features = {column: object(), "label": self.ClassLabel()}

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {self.column: Image.fromarray(LAST[index]), "label": index % 2}


@pytest.mark.parametrize(
    "images",
    [
        PIXELS,
        PIXELS.numpy(),
        LAST,
        list(PIXELS),
        [Image.fromarray(x) for x in LAST],
        PIXELS / 255,
        [(x, "a caption") for x in LAST],
    ],
)
def test_every_form_gives_the_same_pixels(images: Any) -> None:
    dataset = given_dataset(images)
    assert torch.equal(dataset.images, PIXELS)
    assert (dataset.name, dataset.split, dataset.labels) == ("given", "train", None)


@pytest.mark.parametrize(
    "images", [Pairs([Image.fromarray(x) for x in LAST]), HuggingFace("image"), HuggingFace("img")]
)
def test_labels_and_their_names_are_kept(images: Any) -> None:
    dataset = given_dataset(images)
    assert torch.equal(dataset.images, PIXELS)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 0, 1]
    assert dataset.class_names == ("cat", "dog")


def test_one_hot_and_other_second_parts_are_no_labels() -> None:
    assert given_dataset([(x, torch.tensor([0, 1])) for x in PIXELS]).labels is None
    labels = given_dataset([(x, torch.tensor(2)) for x in PIXELS])
    assert labels.class_names == ("0", "1", "2")
    for number in (1_000_000, 2**70):
        with pytest.raises(DataError, match=rf"below 1,000,000, got {number:,}\. Number"):
            given_dataset([(PIXELS[0], number)])
    with pytest.raises(DataError, match=r"0 or more and below 1,000,000, got -1\."):
        given_dataset([(x, -1) for x in PIXELS])


def test_gray_images_get_three_equal_channels() -> None:
    gray = PIXELS[:, :1]
    expected = gray.expand(-1, 3, -1, -1)
    for images in (gray, list(gray[:, 0]), [Image.fromarray(x.numpy()) for x in gray[:, 0]]):
        assert torch.equal(given_dataset(images).images, expected)


def test_images_of_several_sizes_are_fitted_as_files_are(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.integers(0, 256, (h, 30, 3), dtype=np.uint8) for h in (20, 33, 47)]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    files = [decode(str(tmp_path / f"{i}.png"), 16).transpose(2, 0, 1) for i in range(3)]
    images = [Image.fromarray(array) for array in arrays]
    assert np.array_equal(given_dataset(images, 16).images.numpy(), np.stack(files))
    with pytest.raises(DataError, match=r"one square size .*got 30x20, 30x33, 30x47 px"):
        given_dataset(images)
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert given_dataset([transparent]).images.unique().tolist() == [255]


def test_small_images_keep_their_size_unless_it_is_asked_for() -> None:
    assert given_dataset(PIXELS, 64).image_size == 8
    assert given_dataset(PIXELS, 64, enlarge=True).image_size == 64
    assert given_dataset(PIXELS, 4).image_size == 4


def deep_picture() -> Image.Image:
    """A picture of a file with 16 bits a channel, which Pillow would cut to 8."""
    header = b"P6 2 2 65535\n"
    return Image.open(io.BytesIO(header + bytes(2 * 2 * 3 * 2)))


class Stream(torch.utils.data.IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(PIXELS)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Stream(), "got a Stream"),
        (PIXELS[0], r"got a tensor \(3, 8, 8\)"),
        ([], "got an empty list"),
        (2 * PIXELS.float(), r"in \[0, 1\].*got 0 to 382"),
        (PIXELS.long(), "got an image torch.int64"),
        ([{"picture": PIXELS[0]}], "a column image or img, got picture"),
        ({"train": PIXELS}, "with the parts train: give one of them"),
        (["photo.png"], "an item that is a str"),
        ([Image.new("I", (8, 8))], "8 bits a channel, got one of mode I"),
        ([deep_picture()], "8 bits a channel, got one of mode RGB"),
    ],
)
def test_other_forms_are_refused(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        given_dataset(images)


def test_a_data_set_of_another_size_is_not_taken_as_it_is() -> None:
    dataset = given_dataset(PIXELS)
    assert given_dataset(dataset, dataset.image_size, enlarge=True) is dataset
    assert given_dataset(dataset, 2 * dataset.image_size) is dataset
    with pytest.raises(DataError, match=r"an ImageDataset keeps its size, \d+ px, but 99 px were"):
        given_dataset(dataset, 99, enlarge=True)
