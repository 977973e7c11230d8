"""Adaptive augmentation: its maps against torchvision and linear algebra, its probability against counting."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nacgen.data.stream import Batch
from nacgen.gan.adaptive import adaptive_augment, random_colors, random_geometry


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(n: int) -> Batch:
    return Batch(torch.zeros(n, 3, 8, 8, dtype=torch.uint8), None, 0, 0, n, 0)


def random_images(n: int) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=draw()) * 2 - 1


def test_probability_0_leaves_images_and_a_small_one_most_of_them() -> None:
    images = random_images(200)
    assert adaptive_augment(images, batch_of(200), "x", 0.0) is images
    result = adaptive_augment(images, batch_of(200), "x", 0.01)
    same = (result - images).abs().amax((1, 2, 3)) < 1e-5
    assert 0.8 < same.float().mean() < 0.95  # a dozen transforms, a hundredth of each


def test_geometry_is_made_of_turns_mirrors_stretches_and_shifts() -> None:
    matrices = random_geometry(4000, 8, 1.0, draw()).double()
    linear = matrices[:, :2, :2]
    assert torch.equal(matrices[:, 2], torch.tensor([0.0, 0, 1]).double().expand(4000, 3))
    areas = torch.linalg.det(linear)
    assert (areas < 0).float().mean().item() == pytest.approx(0.5, abs=0.04)  # mirrored
    scales = areas.abs().log2() / 2  # of the isotropic scaling, N(0, 0.2) in octaves
    assert scales.mean().item() == pytest.approx(0, abs=0.02)
    assert scales.std().item() == pytest.approx(0.2, abs=0.01)
    ratio = torch.linalg.svdvals(linear)
    stretch = (ratio[:, 0] / ratio[:, 1]).log2() / 2  # |N(0, 0.2)|
    assert stretch.mean().item() == pytest.approx(0.2 * math.sqrt(2 / math.pi), abs=0.01)


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_transforms_come_as_often_as_asked(probability: float) -> None:
    n = 6000
    matrices = random_geometry(n, 8, probability, draw())
    areas = torch.linalg.det(matrices[:, :2, :2])
    assert (areas < 0).float().mean().item() == pytest.approx(probability / 2, abs=0.025)
    scaled = (areas.abs() - 1).abs() > 1e-5
    assert scaled.float().mean().item() == pytest.approx(probability, abs=0.025)
    colors = random_colors(n, probability, draw())
    gray = torch.tensor([1.0, 1, 1, 0])
    flipped = (colors @ gray)[:, 0] < 0
    assert flipped.float().mean().item() == pytest.approx(probability / 2, abs=0.025)
    brightened = colors[:, 0, 3] != 0
    assert brightened.float().mean().item() == pytest.approx(probability, abs=0.025)


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_the_share_of_untouched_images_is_the_product_of_the_published_gates(p: float) -> None:
    """Mirror (half of the gated), quarter turn (three quarters), scale, two turns (together p) and stretch."""
    n = 20_000
    linear = random_geometry(n, 32, p, draw())[:, :2, :2]
    same = (linear - torch.eye(2)).abs().amax((1, 2)) < 1e-5
    expected = (1 - p / 2) * (1 - 3 * p / 4) * (1 - p) ** 3
    assert same.float().mean().item() == pytest.approx(expected, abs=0.012)
    colors = random_colors(n, p, draw())
    same = (colors - torch.eye(4)).abs().amax((1, 2)) < 1e-5
    expected = (1 - p) ** 4 * (1 - p / 2)  # brightness, contrast, hue, saturation; luma
    assert same.float().mean().item() == pytest.approx(expected, abs=0.012)


def test_both_axes_of_a_shift_pass_one_gate() -> None:
    """Karras et al. 2020, appendix B: at p = 0.2 a share of 0.64 stays, and what rounds to 0."""
    n, p, size = 20_000, 0.2, 32
    matrices = random_geometry(n, size, p, draw())
    shifts = matrices[:, :2, 2].abs() > 1e-6
    stays = (1 - p) * (1 - p + p / (0.25 * size) ** 2)  # fractions of the size, then whole pixels
    assert (~shifts.any(1)).float().mean().item() == pytest.approx(stays, abs=0.012)


def test_colours_keep_the_grey_axis_and_scale_turns_about_it() -> None:
    matrices = random_colors(500, 1.0, draw())
    linear, offset = matrices[:, :3, :3], matrices[:, :3, 3]
    gray = torch.ones(3)
    torch.testing.assert_close(offset, offset[:, :1].expand(-1, 3))
    on_gray = linear @ gray
    torch.testing.assert_close(on_gray, on_gray[:, :1].expand(-1, 3))  # grey stays grey
    across = torch.tensor([[1.0, -1, 0], [1, 1, -2]])
    moved = linear @ across.T  # (n, 3, 2)
    torch.testing.assert_close(moved.sum(1), torch.zeros(500, 2), atol=1e-4, rtol=0)
    lengths = moved.norm(dim=1) / across.norm(dim=1)
    torch.testing.assert_close(lengths[:, 0], lengths[:, 1])  # one saturation for all hues
    cosines = torch.nn.functional.cosine_similarity(moved[:, :, 0], across[0].expand(500, 3))
    assert cosines.min() < -0.99  # all hues are reached
    assert cosines.max() > 0.99


def test_pixels_go_where_the_map_says() -> None:
    """Quarter turns and mirrors alone, read off the drawn matrices, against torch's own."""
    images, n = random_images(4000), 4000
    batch = batch_of(n)
    geometry = random_geometry(n, 8, 0.05, batch.generator("x"))
    colors = random_colors(n, 0.05, generator_after_geometry(batch, n))
    result = adaptive_augment(images, batch, "x", 0.05)
    known = {
        (1, 0, 0, 1): lambda x: x,
        (-1, 0, 0, 1): lambda x: x.flip(2),
        (-1, 0, 0, -1): lambda x: x.rot90(2, (1, 2)),
        (0, -1, 1, 0): lambda x: x.rot90(1, (1, 2)),
        (0, 1, -1, 0): lambda x: x.rot90(3, (1, 2)),
    }
    found = set()
    for i in range(n):
        linear, shift = geometry[i, :2, :2].flatten(), geometry[i, :2, 2]
        kind = tuple(int(v) for v in linear.round())
        is_plain = (linear - linear.round()).abs().max() < 1e-5 and shift.abs().max() == 0
        if is_plain and kind in known and (colors[i] - torch.eye(4)).abs().max() < 1e-5:
            torch.testing.assert_close(result[i], known[kind](images[i]), atol=1e-4, rtol=0)
            found.add(kind)
    assert found == set(known)


def generator_after_geometry(batch: Batch, n: int) -> torch.Generator:
    generator = batch.generator("x")
    random_geometry(n, 8, 0.05, generator)
    return generator


def test_shares_of_a_batch_are_augmented_as_the_whole() -> None:
    images, whole = random_images(6), batch_of(6)
    parts = [replace(whole, images=whole.images[i : i + 2], start=i) for i in (0, 2, 4)]
    found = [adaptive_augment(images[p.start : p.start + 2], p, "x", 0.8) for p in parts]
    expected = adaptive_augment(images, whole, "x", 0.8)
    torch.testing.assert_close(torch.cat(found), expected)
    assert not torch.allclose(adaptive_augment(images, whole, "y", 0.8), expected)


def test_gradients_reach_the_images() -> None:
    images = random_images(2).requires_grad_()
    adaptive_augment(images, batch_of(2), "x", 1.0).square().sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()
