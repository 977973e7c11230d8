from dataclasses import replace

import pytest
import torch

from nacgen.data.augment import ViewPolicy, color_jitter, diff_augment, random_view, resized_crop
from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, DataError

DIGITS = load_dataset("digits")


def test_digits_are_scikit_learns_and_split_without_overlap() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    test = load_dataset("digits", "test")
    assert len(DIGITS) + len(test) == 1797
    counts = torch.bincount(test.labels)  # type: ignore[arg-type]
    assert counts.min() >= 34
    assert counts.max() <= 37
    labels = torch.from_numpy(datasets.load_digits().target).bincount()
    assert torch.equal(DIGITS.labels.bincount() + counts, labels)  # type: ignore[union-attr]
    seen = {image.numpy().tobytes() for image in DIGITS.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_every_epoch_is_a_permutation_and_no_image_is_dropped() -> None:
    stream, n = ImageStream(DIGITS, 64, seed=1), len(DIGITS)
    order = torch.cat([stream.indices(position) for position in range(0, 64 * 46, 64)])
    assert sorted(order[:n].tolist()) == list(range(n))
    assert sorted(order[n : 2 * n].tolist()) == list(range(n))
    assert not torch.equal(order[:n], order[n : 2 * n])


def test_another_seed_is_another_order() -> None:
    orders = [ImageStream(DIGITS, 64, seed).indices(0).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_a_stream_starts_anywhere() -> None:
    first, second = ImageStream(DIGITS, 64, seed=1), ImageStream(DIGITS, 64, seed=1)
    walked = [first.batch(position).images for position in range(0, 64 * 30, 64)]
    assert torch.equal(second.batch(64 * 29).images, walked[29])
    assert torch.equal(second.batch(64 * 3).images, walked[3])


def test_processes_share_one_stream_and_its_draws() -> None:
    whole = ImageStream(DIGITS, 8, seed=1).batch(16)
    parts = [ImageStream(DIGITS, 8, 1, "cpu", rank, 2).batch(16) for rank in range(2)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    views = [random_view(part, ViewPolicy(), "view") for part in parts]
    assert torch.equal(torch.cat(views), random_view(whole, ViewPolicy(), "view"))
    images = torch.rand(8, 3, 16, 16)
    halves = [diff_augment(images[4 * i : 4 * i + 4], part, "x") for i, part in enumerate(parts)]
    assert torch.equal(torch.cat(halves), diff_augment(images, whole, "x"))


def test_labels_come_with_their_images_one_or_several_each() -> None:
    assert DIGITS.labels is not None
    several = torch.stack([DIGITS.labels % 2 == 0, DIGITS.labels > 4, DIGITS.labels == 7], dim=1)
    for labels in (DIGITS.labels, several):
        stream = ImageStream(replace(DIGITS, labels=labels), 64, seed=1)
        batch = stream.batch(1408)
        assert batch.labels is not None
        assert torch.equal(batch.labels, labels[stream.indices(1408)])
        assert torch.equal(batch.images, DIGITS.read(stream.indices(1408)))
    assert ImageStream(replace(DIGITS, labels=None), 64, seed=1).batch(0).labels is None


def test_parts_of_a_batch_draw_what_the_whole_draws() -> None:
    whole = ImageStream(DIGITS, 12, 0, "cpu", 1, 2).batch(36)  # the second of two processes
    parts = whole.split(3)
    assert [part.start for part in parts] == [6, 8, 10]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)  # type: ignore[arg-type, misc]
    drawn = [part.local(torch.rand(12, generator=part.generator("x"))) for part in parts]
    assert torch.equal(torch.cat(drawn), torch.rand(12, generator=whole.generator("x"))[6:])


def test_batches_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 9 for 2"):
        ImageStream(DIGITS, 9, 0, "cpu", 0, 2)
    with pytest.raises(DataError, match="a batch of 2000"):
        ImageStream(DIGITS, 2000, 0)


def test_crops_and_colours_are_torchvisions() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    images = torch.rand(3, 3, 16, 16)
    boxes = torch.tensor([[0.0, 0, 16, 16], [3, 5, 9, 7], [10, 2, 5, 12]])
    flips = torch.tensor([False, True, False])
    factors = torch.tensor([[1.0, 1, 1], [1.3, 0.7, 0.0], [0.6, 1.4, 1.2]])
    views, jittered = resized_crop(images, boxes, flips), color_jitter(images, factors)
    for i in range(3):
        expected = transforms.resized_crop(images[i], *boxes[i].int().tolist(), [16, 16])
        if flips[i]:
            expected = transforms.horizontal_flip(expected)
        assert torch.allclose(views[i], expected, atol=1e-5)
        brightness, contrast, saturation = factors[i].tolist()
        expected = transforms.adjust_brightness(images[i], brightness)
        expected = transforms.adjust_contrast(expected, contrast)
        expected = transforms.adjust_saturation(expected, saturation)
        assert torch.allclose(jittered[i], expected, atol=1e-3)
