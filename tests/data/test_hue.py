import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nacgen.data.augment import ViewPolicy, color_jitter, random_view, resized_crop, shift_hue
from nacgen.data.datasets import load_dataset
from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import ConfigurationError

CORNERS = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3)  # greys, primaries, ties
SHIFTS = (-0.5, -0.31, -0.1, 0.0, 1 / 3, 0.1, 0.25, 0.5)


def colorful(n: int = 5, size: int = 12) -> Tensor:
    images = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[0, :, :3, :9] = CORNERS.T.reshape(3, 3, 9)
    return images


def batch_of(images: Tensor) -> Batch:
    return Batch((images * 255).to(torch.uint8), None, 7, 640, len(images), 0)


@pytest.mark.parametrize("shift", SHIFTS)
def test_hue_is_torchvisions(shift: float) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    images = colorful()
    found = shift_hue(images, torch.full((len(images),), shift))
    assert torch.allclose(found, transforms.adjust_hue(images, shift), atol=1e-5, rtol=0)


def test_each_image_has_its_own_shift() -> None:
    images, shifts = colorful(), torch.tensor([-0.5, -0.1, 0.0, 0.2, 0.5])
    together = shift_hue(images, shifts)
    for i in range(5):
        assert torch.equal(together[i : i + 1], shift_hue(images[i : i + 1], shifts[i : i + 1]))


def test_a_third_of_a_turn_makes_red_green_and_grey_stays_grey() -> None:
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 0.8
    green = torch.zeros(1, 3, 2, 2)
    green[:, 1] = 0.8
    assert torch.allclose(shift_hue(red, torch.tensor([1 / 3])), green, atol=1e-6)
    gray = torch.full((1, 3, 2, 2), 0.3)
    assert torch.equal(shift_hue(gray, torch.tensor([0.17])), gray)


def test_turning_back_restores_the_colours() -> None:
    images, shifts = colorful(), torch.tensor([-0.4, -0.1, 0.0, 0.2, 0.5])
    assert torch.allclose(shift_hue(shift_hue(images, shifts), -shifts), images, atol=1e-5)


def test_a_policy_without_hue_draws_what_it_always_drew() -> None:
    """The pixels of a view as they were before there was hue; shipped encoders depend on them."""
    batch = ImageStream(load_dataset("digits"), 16, seed=5).batch(160)
    view = random_view(batch, ViewPolicy(), "view_1")
    total = ((view + 1) * 127.5).double()
    assert total.sum().item() == pytest.approx(1214872.032, rel=1e-6)
    assert total[3].std().item() == pytest.approx(53.647813, rel=1e-6)


def test_hue_changes_nothing_but_the_hue_of_a_view() -> None:
    batch = batch_of(colorful(200))
    without = (random_view(batch, ViewPolicy(), "view") + 1) / 2
    with_hue = (random_view(batch, ViewPolicy(hue=0.1), "view") + 1) / 2
    assert torch.allclose(with_hue.amax(1), without.amax(1), atol=1e-5)  # value
    assert torch.allclose(with_hue.amin(1), without.amin(1), atol=1e-5)  # and saturation
    distance = (with_hue - without).abs().amax((1, 2, 3))
    processes = float((distance > 1e-4).float().mean())  # 0.8 jittered, of which 0.8 keep a colour
    assert processes == pytest.approx(0.64, abs=0.12)


def test_shifts_are_uniform_up_to_their_strength() -> None:
    red = torch.zeros(4000, 3, 1, 1)
    red[:, 0] = 1.0
    policy = ViewPolicy(
        crop_scale=(1.0, 1.0), crop_ratio=1.0, jitter=0.0, saturation=0.0, jitter_probability=1.0,
        grayscale_probability=0.0, hue=0.1,
    )  # fmt: skip
    view = (random_view(batch_of(red), policy, "view") + 1) / 2
    shifts = (view[:, 1] - view[:, 2]).flatten() / 6  # towards green, or towards blue
    assert shifts.abs().max() <= 0.1 + 1e-6
    counts = torch.histc(shifts, bins=4, min=-0.1, max=0.1)
    assert counts.min() > 880  # of 1000 expected, 4.4 standard deviations below
    view = (random_view(batch_of(red), replace(policy, jitter_probability=0.8), "view") + 1) / 2
    unchanged = (view - red).abs().amax((1, 2, 3)) < 1e-6
    assert float(unchanged.float().mean()) == pytest.approx(0.2, abs=0.03)


def test_hue_comes_after_saturation() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    images = colorful(1)
    jittered = color_jitter(images, torch.tensor([[1.2, 0.8, 1.3]]))
    expected = transforms.adjust_brightness(images, 1.2)
    expected = transforms.adjust_contrast(expected, 0.8)
    expected = transforms.adjust_saturation(expected, 1.3)
    expected = transforms.adjust_hue(expected, 0.07)
    assert torch.allclose(shift_hue(jittered, torch.tensor([0.07])), expected, atol=1e-3)


def test_processes_share_the_draws_of_hue() -> None:
    images = (colorful(8) * 255).to(torch.uint8)
    policy = ViewPolicy(hue=0.1, size=10)
    whole = random_view(Batch(images, None, 0, 0, 8, 0), policy, "view")
    halves = [Batch(images[i : i + 4], None, 0, 0, 8, i) for i in (0, 4)]
    assert torch.equal(torch.cat([random_view(half, policy, "view") for half in halves]), whole)


@pytest.mark.parametrize("size", [5, 12, 20])
def test_views_have_the_size_that_is_asked_for(size: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    images = colorful(3)
    boxes = torch.tensor([[0.0, 0, 12, 12], [3, 5, 9, 7], [1, 2, 5, 10]])
    views = resized_crop(images, boxes, torch.tensor([False, True, False]), size)
    for i in range(3):
        expected = transforms.resized_crop(
            images[i], *boxes[i].int().tolist(), [size, size], antialias=False
        )
        if i == 1:
            expected = transforms.horizontal_flip(expected)
        assert torch.allclose(views[i], expected, atol=1e-5)
    assert random_view(batch_of(images), ViewPolicy(size=size), "view").shape == (3, 3, size, size)


def test_the_size_of_the_images_is_the_size_of_views_that_name_none() -> None:
    batch = batch_of(colorful())
    named = random_view(batch, ViewPolicy(size=12), "view")
    assert torch.equal(named, random_view(batch, ViewPolicy(), "view"))


def test_strengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"hue must lie between 0 and 0\.5, got 0\.6"):
        ViewPolicy(hue=0.6)
    with pytest.raises(ConfigurationError, match=r"got -0\.1"):
        ViewPolicy(hue=-0.1)
    for name in ("jitter", "saturation", "jitter_probability", "grayscale_probability"):
        for value in (-0.1, 1.5, float("nan")):
            with pytest.raises(ConfigurationError, match=f"{name} must lie .* got {value}"):
                ViewPolicy(**{name: value})  # type: ignore[arg-type]
    for scale in ((0.0, 1.0), (0.5, 1.1), (0.9, 0.5), (float("nan"), 1.0)):
        with pytest.raises(ConfigurationError, match=re.escape(f"got {scale} and ratio")):
            ViewPolicy(crop_scale=scale)
    with pytest.raises(ConfigurationError, match=r"and ratio 0\.75\. SimCLR"):
        ViewPolicy(crop_ratio=0.75)
    with pytest.raises(ConfigurationError, match=r"size must be 1 to 4,096 pixels, got 1000000\."):
        ViewPolicy(size=10**6)
    with pytest.raises(ConfigurationError, match="size must be 1 to 4,096 pixels, got 0"):
        ViewPolicy(size=0)
