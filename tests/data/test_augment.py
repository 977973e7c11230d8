"""Views and DiffAugment. Hue and sizes of views are in test_hue.py, a first look at the rest in test_stream.py."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nacgen.data.augment import (
    ViewPolicy,
    augment_own,
    color_jitter,
    diff_augment,
    random_boxes,
    random_view,
    resized_crop,
)
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch

PLAIN = ViewPolicy(
    crop_scale=(1.0, 1.0),
    crop_ratio=1.0,
    flip=False,
    jitter=0.0,
    saturation=0.0,
    grayscale_probability=0.0,
)


def random_images(n: int = 6, height: int = 12, width: int = 12) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def batch_of(images: Tensor, seed: int = 0, images_seen: int = 0) -> Batch:
    pixels = (images * 255).round().to(torch.uint8)
    return Batch(pixels, None, seed, images_seen, len(images), 0)


def shared(batch: Batch, num_processes: int) -> list[Batch]:
    """The batch as each of several processes gets it."""
    size = len(batch.images) // num_processes
    starts = range(0, len(batch.images), size)
    return [replace(batch, images=batch.images[i : i + size], start=i) for i in starts]


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Written as a loop over pixels; zeros move in."""
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = image[:, y - down, x - right]
    return result


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_each_colour_change_is_torchvisions(column: int, factor: float) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    adjust: Callable[[Tensor, float], Tensor] = (
        transforms.adjust_brightness,
        transforms.adjust_contrast,
        transforms.adjust_saturation,
    )[column]
    images, factors = random_images(), torch.ones(6, 3)
    factors[:, column] = factor
    expected = adjust(images, factor)
    found = color_jitter(images, factors)
    # torchvision rounds the weight of red to 0.2989
    assert torch.allclose(found, expected, atol=2e-4 * max(1, abs(1 - factor)), rtol=0)
    assert found.min() >= 0
    assert found.max() <= 1


def test_colour_changes_run_brightness_contrast_saturation() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    images = random_images()
    expected = transforms.adjust_brightness(images, 1.8)  # clips, so the order shows
    expected = transforms.adjust_contrast(expected, 1.6)
    expected = transforms.adjust_saturation(expected, 0.4)
    found = color_jitter(images, torch.tensor([1.8, 1.6, 0.4]).expand(6, 3))
    assert torch.allclose(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 14)])
def test_random_crops_are_torchvisions(height: int, width: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    images = random_images(40, height, width)
    draw = torch.Generator().manual_seed(1)
    boxes = random_boxes(40, height, width, (0.05, 1.0), 2.0, draw)
    flips = torch.arange(40) % 3 == 0
    views = resized_crop(images, boxes, flips)
    for image, box, flip, view in zip(images, boxes, flips, views, strict=True):
        expected = transforms.resized_crop(
            image, *box.int().tolist(), [height, width], antialias=False
        )
        if flip:
            expected = transforms.horizontal_flip(expected)
        assert torch.allclose(view, expected, atol=1e-5)


def test_a_crop_of_everything_changes_nothing() -> None:
    images, boxes = random_images(), torch.tensor([[0.0, 0, 12, 12]]).expand(6, 4)
    same = resized_crop(images, boxes, torch.zeros(6, dtype=torch.bool))
    assert torch.allclose(same, images, atol=1e-6)
    mirrored = resized_crop(images, boxes, torch.ones(6, dtype=torch.bool))
    assert torch.allclose(mirrored, images.flip(3), atol=1e-6)


def test_boxes_lie_inside_and_spread_over_area_and_place() -> None:
    draw = torch.Generator().manual_seed(0)
    top, left, height, width = random_boxes(4000, 64, 96, (0.2, 0.8), 4 / 3, draw).unbind(1)
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 64
    assert (left + width).max() == 96
    assert all(torch.equal(side, side.round()) for side in (top, left, height, width))
    processes, ratio = height * width / (64 * 96), width / height
    # an edge can be rounded by half a pixel, or cut to the image
    assert 0.19 < processes.min() < 0.21
    assert 0.75 < processes.max() < 0.82
    assert (ratio < 4 / 3 * 1.05).all()  # 1.05: half a pixel of an edge of 25 on both sides
    assert (ratio > 3 / 4 / 1.05).all()
    assert ratio.max() > 1.3
    assert ratio.min() < 0.77
    small = processes[processes < 0.5]  # none of these is cut
    counts = torch.histc(small, bins=3, min=0.2, max=0.5)
    assert (counts / 4000 - 1 / 6).abs().max() < 0.03  # uniform in area
    assert ratio[processes < 0.5].log().mean().abs() < 0.02  # symmetric in the logarithm
    room = 64 - height
    assert abs((top / room)[room > 0].mean() - 0.5) < 0.02  # uniform in place


def test_a_policy_that_varies_nothing_gives_the_images_back() -> None:
    batch = batch_of(random_images())
    assert torch.allclose(random_view(batch, PLAIN, "view"), to_float(batch.images), atol=1e-6)


def test_half_of_the_images_are_mirrored() -> None:
    images = random_images(1, 6, 6).expand(2000, 3, 6, 6)
    batch = batch_of(images)
    views, original = random_view(batch, replace(PLAIN, flip=True), "view"), to_float(batch.images)
    is_same, is_mirrored = (
        (views - x).abs().amax((1, 2, 3)) < 1e-5 for x in (original, original.flip(3))
    )
    assert (is_same ^ is_mirrored).all()
    assert is_mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_colours_change_in_their_share_of_images_within_their_range() -> None:
    gray = torch.full((3000, 3, 2, 2), 0.5)
    policy = replace(PLAIN, jitter=0.4, jitter_probability=0.8)
    views = (random_view(batch_of(gray), policy, "view") + 1) / 2
    level = 128 / 255
    factors = views[:, 0, 0, 0] / level  # uniform grey: brightness alone shows
    assert 0.599 < factors.min() < 0.62
    assert 1.38 < factors.max() < 1.401
    unchanged = (factors - 1).abs() < 1e-6
    assert unchanged.float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_images_lose_their_colour_in_their_share() -> None:
    batch = batch_of(random_images(1, 4, 4).expand(2000, 3, 4, 4))
    policy = replace(PLAIN, grayscale_probability=0.3)
    is_gray = random_view(batch, policy, "view").std(1).amax((1, 2)) < 1e-5
    assert is_gray.float().mean().item() == pytest.approx(0.3, abs=0.04)


POLICY = ViewPolicy(hue=0.1)


@pytest.mark.parametrize("num_processes", [2, 3, 6])
def test_processes_get_their_rows_of_a_view(num_processes: int) -> None:
    batch = batch_of(random_images(), seed=3, images_seen=60)
    whole, images = random_view(batch, POLICY, "view_1"), random_images() * 2 - 1
    parts = shared(batch, num_processes)
    assert torch.equal(torch.cat([random_view(part, POLICY, "view_1") for part in parts]), whole)
    augmented = [
        diff_augment(images[part.start : part.start + len(part.images)], part, "augment")
        for part in parts
    ]
    assert torch.equal(torch.cat(augmented), diff_augment(images, batch, "augment"))


def test_a_view_is_a_function_of_seed_purpose_and_position() -> None:
    images = random_images()
    batch = batch_of(images, seed=3, images_seen=60)
    torch.manual_seed(0)
    first = random_view(batch, POLICY, "view_1")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(random_view(batch, POLICY, "view_1"), first)
    assert torch.equal(torch.get_rng_state(), state)
    others = (
        random_view(batch, POLICY, "view_2"),
        random_view(replace(batch, seed=4), POLICY, "view_1"),
        random_view(replace(batch, images_seen=66), POLICY, "view_1"),
    )
    for other in others:
        assert ((other - first).abs().amax((1, 2, 3)) > 1e-3).all()


def test_an_image_is_augmented_without_regard_to_its_neighbours() -> None:
    images = random_images()
    batch = batch_of(images)
    changed = batch.images.clone()
    changed[1:] = 255 - changed[1:]
    other = replace(batch, images=changed)
    first, second = (random_view(b, POLICY, "view") for b in (batch, other))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_translation_shifts_each_image_by_whole_pixels() -> None:
    images = random_images(60, 8, 16) + 1  # no zeros but those that move in
    moved = diff_augment(images, batch_of(images / 2), "x", translation=0.125, cutout=0)
    found = []
    for image, result in zip(images, moved, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if torch.equal(shifted(image, down, right), result)
        ]
        assert len(fits) == 1
        found += fits
    assert {down for down, _ in found} == {-1, 0, 1}  # an eighth of 8 and of 16 pixels
    assert {right for _, right in found} == {-2, -1, 0, 1, 2}


def test_shifts_are_uniform_over_whole_pixels() -> None:
    """Zhao et al. 2020: each of -r, …, r as often as the others, both ends included."""
    images = torch.arange(1.0, 17).expand(3 * 4000, 3, 16, 16)  # a pixel tells its column
    moved = diff_augment(images, batch_of(images / 16), "x", translation=0.125, cutout=0)
    shifts = 9 - moved[:, 0, 8, 8].long()
    counts = (shifts + 2).bincount(minlength=5)
    assert len(counts) == 5
    assert counts.tolist() == pytest.approx([3 * 4000 / 5] * 5, rel=0.08)


@pytest.mark.parametrize(("size", "cutout", "side"), [(8, 0.5, 4), (16, 0.25, 4), (12, 0.25, 3)])
def test_cutout_blanks_a_square_whose_place_is_uniform(size: int, cutout: float, side: int) -> None:
    """Zhao et al. 2020: offsets 0, …, size - side % 2, the square around them cut at the image's edge."""
    images = torch.ones(6000, 3, size, size)
    blank = diff_augment(images, batch_of(images), "x", translation=0, cutout=cutout) == 0
    assert torch.equal(blank.all(1), blank.any(1))  # all colours alike
    hole = blank[:, 0]
    expected = torch.zeros(size)
    offsets = range(size + 1 - side % 2)
    for offset in offsets:
        first = offset - side // 2
        expected[max(0, first) : first + side] += 6000 / len(offsets)
    for axis in (1, 2):
        lines = hole.any(axis)
        assert torch.equal(lines.flip(1).sum(0) > 0, lines.sum(0) > 0)
        assert lines.sum(0).tolist() == pytest.approx(expected.tolist(), rel=0.15)
        assert int(lines.sum(1).max()) == side
    assert torch.equal(hole.sum((1, 2)), hole.any(1).sum(1) * hole.any(2).sum(1))  # rectangles


def test_colours_change_as_written_out_and_leave_the_rest_of_the_draw() -> None:
    images = random_images(5) * 2 - 1
    batch = batch_of(images)
    draw = batch.generator("x")
    for high in (1, 1, 13, 13):  # shifts and squares
        torch.randint(high, (5,), generator=draw)
    strength = torch.rand(5, 3, generator=draw)
    result = diff_augment(images, batch, "x", translation=0, cutout=0, color=True)
    for image, (brightness, saturation, contrast), found in zip(
        images, strength.tolist(), result, strict=True
    ):
        expected = image + brightness - 0.5
        gray = expected.mean(0, keepdim=True)
        expected = gray + (expected - gray) * 2 * saturation
        expected = expected.mean() + (expected - expected.mean()) * (contrast + 0.5)
        torch.testing.assert_close(found, expected)
    moved = diff_augment(images, batch, "x", 0.25, 0.5, color=True)
    assert torch.equal(moved == 0, diff_augment(images, batch, "x", 0.25, 0.5) == 0)


def test_diff_augment_is_differentiable() -> None:
    images = random_images(3, 6, 6).double().requires_grad_()
    batch = batch_of(random_images(3, 6, 6))

    def augment(x: Tensor) -> Tensor:
        return diff_augment(x, batch, "x", translation=0.34, cutout=0.4)

    assert torch.autograd.gradcheck(augment, (images,))
    result = augment(images)
    (gradient,) = torch.autograd.grad(result.sum(), images)
    assert set(gradient.unique().tolist()) == {0.0, 1.0}  # a pixel is kept or lost
    assert int(gradient.sum()) == int((result != 0).sum())


def test_real_and_generated_images_are_moved_differently() -> None:
    images = random_images(20)
    batch = batch_of(images)
    real, fake = (diff_augment(images, batch, purpose) for purpose in ("real", "fake"))
    assert not torch.equal(real, fake)


def test_diff_augment_can_be_switched_off() -> None:
    images = random_images() * 2 - 1
    assert torch.equal(diff_augment(images, batch_of(images), "x", 0, 0), images)


def test_an_own_augmentation_draws_by_seed_purpose_and_position() -> None:
    images, state = random_images(), torch.random.get_rng_state()

    def drawn(purpose: str = "own", **of_batch: int) -> Tensor:
        torch.rand(1)  # the caller's generator has no part in it
        return augment_own(torch.randn_like, images, batch_of(images, **of_batch), purpose)

    first = drawn()
    assert torch.equal(drawn(), first)
    for other in (drawn("other"), drawn(seed=1), drawn(images_seen=64)):
        assert not torch.equal(other, first)
    torch.random.set_rng_state(state)
    augment_own(torch.randn_like, images, batch_of(images), "own")
    assert torch.equal(torch.random.get_rng_state(), state)
