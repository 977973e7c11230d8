"""Images as people have them in hand: each form scores alike, and what is none says what to do."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from nacgen.data.pictures import write_image
from nacgen.errors import ConfigurationError, DataError
from nacgen.metrics import ReferenceStatistics, evaluate
from nacgen.metrics.inputs import image_set
from tests.metrics.means import ChannelMeans

IMAGES = torch.randint(0, 256, (24, 3, 5, 4), generator=torch.Generator().manual_seed(0)).byte()
OTHERS = IMAGES.flip(0).roll(1, 2)


def channels_last(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


def pictures(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in channels_last(images)]


class Pairs(Dataset[Any]):
    """A torch Dataset of images and labels, as torchvision's."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> Any:
        return self.make(index), 7

    def __len__(self) -> int:
        return len(IMAGES)


class Stream(IterableDataset[Any]):
    """Images without number or end."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield from IMAGES


FORMS: dict[str, Callable[[], Any]] = {
    "tensor": lambda: IMAGES,
    "tensor, channels last": lambda: IMAGES.permute(0, 2, 3, 1),
    "array": IMAGES.numpy,
    "array, channels last, read-only": lambda: np.broadcast_to(
        channels_last(IMAGES), (24, 5, 4, 3)
    ),
    "pictures": lambda: pictures(IMAGES),
    "list of tensors": lambda: list(IMAGES),
    "tuple of arrays": lambda: tuple(channels_last(IMAGES)),
    "TensorDataset": lambda: TensorDataset(IMAGES, torch.zeros(24)),
    "subset": lambda: Subset(TensorDataset(IMAGES.repeat(2, 1, 1, 1)), range(24)),
    "pairs of pictures": lambda: Pairs(lambda i: pictures(IMAGES[i : i + 1])[0]),
    "loader": lambda: DataLoader(TensorDataset(IMAGES), 7),
    "loader of pairs": lambda: DataLoader(Pairs(IMAGES.__getitem__), 7),
    "mappings": lambda: [{"label": 0, "image": picture} for picture in pictures(IMAGES)],
    "loader of mappings": lambda: DataLoader([{"image": image} for image in IMAGES], 5),  # type: ignore[arg-type]
    "generator of batches": lambda: (part for part in IMAGES.split(5)),
}


def score(generate: Any, reference: Any, **options: Any) -> float:
    result = evaluate(generate, reference, extractor=ChannelMeans(), **options)
    return result.scores["fd_channel_means"].value


@pytest.fixture(scope="module")
def expected() -> float:
    return score(lambda indices: OTHERS[indices], IMAGES, num_samples=24)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_scores_alike_on_either_side(form: str, expected: float) -> None:
    assert score(lambda indices: OTHERS[indices], FORMS[form](), num_samples=24) == expected
    assert score(FORMS[form](), OTHERS) == pytest.approx(expected, rel=1e-12)
    assert len(image_set(FORMS[form]())) == 24


def test_paths_are_opened(tmp_path: Path, expected: float) -> None:
    (tmp_path / "images").mkdir()
    for i, image in enumerate(IMAGES):
        write_image(image, tmp_path / "images" / f"{i:02}.png")
    np.savez(tmp_path / "images.npz", channels_last(IMAGES))
    ReferenceStatistics.compute(IMAGES, ChannelMeans()).save(tmp_path / "statistics.npz")
    for name in ("images", "images.npz", "statistics.npz"):
        for path in (tmp_path / name, str(tmp_path / name)):
            assert score(OTHERS, path) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "make",
    [pictures, list, channels_last, lambda images: (images, torch.zeros(len(images)))],
)
def test_a_function_may_return_any_form(make: Callable[[Tensor], Any], expected: float) -> None:
    assert score(lambda indices: make(OTHERS[indices]), IMAGES, num_samples=24) == expected


def test_an_endless_stream_is_read_as_far_as_it_is_scored(expected: float) -> None:
    assert score(Stream(), OTHERS, num_samples=24) == pytest.approx(expected, rel=1e-12)


def test_gray_and_opaque_pictures_are_read_as_files_are() -> None:
    gray = Image.fromarray(IMAGES[0, 0].numpy())
    opaque = pictures(IMAGES[:1])[0].convert("RGBA")
    read = image_set([gray, opaque]).read(torch.arange(2))
    assert torch.equal(read[0], IMAGES[0, :1].expand(3, -1, -1))
    assert torch.equal(read[1], IMAGES[0])


def test_a_block_of_images_follows_the_seed_and_the_label_says_files() -> None:
    result = evaluate(OTHERS, IMAGES, extractor=ChannelMeans(), num_samples=8, seed=2)
    expected = score(OTHERS[16:], IMAGES)
    assert result.scores["fd_channel_means"].value == pytest.approx(expected, rel=1e-12)
    assert result.protocol.model == "files"
    with pytest.raises(
        ConfigurationError, match=r"at most the 24 images of Tensor, got 9 and seed 2"
    ):
        score(OTHERS, IMAGES, num_samples=9, seed=2)


def test_metrics_may_be_named_by_a_string_or_an_iterator(as_users_run_it: None) -> None:
    assert score(OTHERS, IMAGES, metrics="fid") == score(OTHERS, IMAGES)
    assert score(OTHERS, IMAGES, metrics=iter(["fid"])) == score(OTHERS, IMAGES)


def test_statistics_are_labeled_as_files() -> None:
    statistics = ReferenceStatistics.compute(OTHERS, ChannelMeans())
    result = evaluate(statistics, IMAGES, extractor=ChannelMeans())
    assert result.protocol.model == "files"


FLOATS = IMAGES.float() / 255


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("digit/test", "images must be a folder, .* but digit/test is none of them"),
        (
            FLOATS,
            r"got torch.float32 \(24, 3, 5, 4\)\. .*to_uint8 converts floats in \[-1, 1\]; mult",
        ),
        (FLOATS.numpy(), r"got torch.float32 \(24, 3, 5, 4\)"),
        (TensorDataset(FLOATS), r"got torch.float32 \(1, 3, 5, 4\)"),
        (DataLoader(TensorDataset(FLOATS), 8), r"got torch.float32 \(8, 3, 5, 4\)"),
        (IMAGES.long(), r"got torch.int64 .* as whole numbers from 0 to 255"),
        (IMAGES[:, :1], r"got torch.uint8 \(24, 1, 5, 4\)\. Repeat a gray channel three times"),
        (IMAGES.numpy()[:, 0], r"got torch.uint8 \(24, 5, 4\)\. Repeat a gray channel three times"),
        (
            IMAGES.numpy()[:, :, :3, :3].repeat(1, 0),
            r"be told from its pixels, got shape \(24, 3, 3, 3\)",
        ),
        ([*IMAGES[:3], IMAGES[0, :, :2]], r"images must have one size, got 4x2, 4x5\. Bring"),
        ([Image.new("I;16", (4, 5))] * 3, "must have 8 bits a channel, got one of mode I;16"),
        ([Image.new("RGBA", (4, 5))] * 3, "must be opaque, got one of mode RGBA"),
        (["a.png", "b.png"], "images must be a uint8 tensor or array, .*, got str"),
        ([], "got an empty list"),
        ({"image": IMAGES}, "images must be a uint8 tensor or array, .*, got dict"),
        ([{"pixels": IMAGES[0]}] * 3, r"one of the keys image, .*, got \['pixels'\]"),
        (np.array(["a", "b"]), "got an array of <U1"),
        (IMAGES.numpy().astype(">u2"), r"got torch.int64 \(24, 3, 5, 4\)"),
        (FLOATS.numpy().astype(np.longdouble), r"got torch.float32 \(24, 3, 5, 4\)"),
        (IMAGES.to_sparse(), "with all their pixels, got Tensor"),
        (IMAGES.to("meta"), "with all their pixels, got Tensor"),
        (torch.nested.nested_tensor([*FLOATS]), "with all their pixels, got Tensor"),
        ("", "named by a path that can be read, .*, got ''"),
        ("x" * 5000, "named by a path that can be read, .*, got 'xxx"),
        (17, "images must be a uint8 tensor or array, .*, got int"),
        (b"digits/train", "got bytes"),
        (None, "got NoneType"),
    ],
)
def test_what_is_none_is_refused_in_a_sentence(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(OTHERS, images)
    with pytest.raises(DataError, match=message):
        score(images, IMAGES)
