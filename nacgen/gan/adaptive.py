"""Augmentation of what a discriminator sees, applied with a probability that training adapts.

Every draw is made at any probability, for the global batch: images depend on seed, purpose, position, probability.

Source: Karras et al. 2020, arXiv:2006.06676, appendix B: pixel blitting, geometry and colors ("bgc").
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.data.stream import Batch


def adaptive_augment(
    images: Float[Tensor, "b 3 h h"], batch: Batch, purpose: str, probability: float
) -> Float[Tensor, "b 3 h h"]:
    """Flip, turn, shift, stretch and recolor images in [-1, 1], each with some probability, differentiably.

    Row `i` belongs to row `i` of the batch. Colors may leave [-1, 1].

    Differs from the paper: pixels between pixels are interpolated linearly, without its wavelet filters.
    """
    if probability == 0:
        return images
    draw, n = batch.generator(purpose), batch.global_size
    geometry = batch.local(random_geometry(n, images.shape[-1], probability, draw))
    colors = batch.local(random_colors(n, probability, draw))
    grid = F.affine_grid(geometry[:, :2], list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    images = einsum(colors[:, :3, :3], images, "b i j, b j h w -> b i h w")
    return images + rearrange(colors[:, :3, 3], "b i -> b i 1 1")


def random_geometry(
    num_images: int, image_size: int, probability: float, draw: torch.Generator
) -> Float[Tensor, "n 3 3"]:
    """Draw maps from a pixel's place to the place that it is read from, in images that span [-1, 1]."""
    uniform = partial(torch.rand, num_images, generator=draw)
    normal = partial(torch.randn, num_images, generator=draw)

    def gate(value: Tensor, neutral: float = 0.0, chance: float = probability) -> Tensor:
        """Keep the value of some images; both axes of a shift are gated together, as published."""
        return torch.where(uniform() < chance, value, neutral)

    one = torch.ones(num_images)
    turn_chance = 1 - math.sqrt(1 - probability)  # of each of the two turns, together `probability`
    matrices = _scaling(gate(1 - 2 * (2 * uniform()).floor(), 1.0), one)  # mirrored or not
    matrices = matrices @ _rotation(gate((4 * uniform()).floor()) * math.pi / 2)
    shifts = torch.stack([0.25 * uniform() - 0.125, 0.25 * uniform() - 0.125]) * image_size
    matrices = matrices @ _shift(*gate(shifts).round() * 2 / image_size)
    size = gate(2 ** (0.2 * normal()), 1.0)
    matrices = matrices @ _scaling(size, size)
    matrices = matrices @ _rotation(gate((2 * uniform() - 1) * math.pi, chance=turn_chance))
    stretch = gate(2 ** (0.2 * normal()), 1.0)
    matrices = matrices @ _scaling(stretch, 1 / stretch)
    matrices = matrices @ _rotation(gate((2 * uniform() - 1) * math.pi, chance=turn_chance))
    shifts = torch.stack([0.25 * normal(), 0.25 * normal()])  # 0.125 of the size
    return matrices @ _shift(*gate(shifts))


def random_colors(
    num_images: int, probability: float, draw: torch.Generator
) -> Float[Tensor, "n 4 4"]:
    """Draw affine maps of colors in [-1, 1]: brightness, contrast, luma, hue, saturation."""
    uniform = partial(torch.rand, num_images, generator=draw)
    normal = partial(torch.randn, num_images, generator=draw)

    def gate(value: Tensor, neutral: float = 0.0) -> Tensor:
        value = torch.where(uniform() < probability, value, neutral)
        return rearrange(value, "n -> n 1 1")

    gray = torch.full((3, 3), 1 / 3)  # projection on the gray axis
    color = torch.eye(3) - gray
    # A turn by an angle about the gray axis is cos * color + sin * cross + gray.
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    brightness = gate(0.2 * normal())
    contrast = gate(2 ** (0.5 * normal()), 1.0)
    luma = gate(1 - 2 * (2 * uniform()).floor(), 1.0)
    hue = gate((2 * uniform() - 1) * math.pi)
    saturation = gate(2 ** normal(), 1.0)
    linear = luma * gray + saturation * (hue.cos() * color + hue.sin() * cross)
    matrices = torch.eye(4).repeat(num_images, 1, 1)
    matrices[:, :3, :3] = contrast * linear
    matrices[:, :3, 3:] = contrast * luma * brightness  # brightness is gray: luma alone turns it
    return matrices


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrices([x, zero, zero], [zero, y, zero], [zero, zero, one])


def _rotation(angle: Tensor) -> Tensor:
    zero, one, c, s = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    return _matrices([c, -s, zero], [s, c, zero], [zero, zero, one])


def _shift(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrices([one, zero, x], [zero, one, y], [zero, zero, one])


def _matrices(*rows: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


class AdaptiveAugmentation(nn.Module):
    """Augmentation whose probability rises while the discriminator is too sure of its training images.

    The mean sign of real logits is held at `target`, with RpGAN that of their differences from generated ones.
    The probability goes from 0 to 1 over `images_to_full` images at the fastest.

    Source: Karras et al. 2020, arXiv:2006.06676, section 3.
    """

    NUM_STEPS = 4  # between two adjustments
    probability: Tensor
    signs: Tensor

    def __init__(self, target: float = 0.6, images_to_full: float = 500_000) -> None:
        super().__init__()
        self.target, self.images_to_full = target, images_to_full
        self.register_buffer("probability", torch.zeros((), dtype=torch.float64))
        self.register_buffer("signs", torch.full((self.NUM_STEPS,), torch.nan))

    def forward(
        self, images: Float[Tensor, "b 3 h h"], batch: Batch, purpose: str
    ) -> Float[Tensor, "b 3 h h"]:
        """Augment images with the present probability, see `adaptive_augment`."""
        return adaptive_augment(images, batch, purpose, float(self.probability))

    def observe(self, sign: float, num_images: int) -> None:
        """Take note of a step; after every fourth, move the probability."""
        self.signs[int(self.signs.isfinite().sum())] = sign
        if self.signs.isfinite().all():
            change = self.NUM_STEPS * num_images / self.images_to_full
            up = 1 if self.signs.mean() > self.target else -1
            self.probability.add_(up * change).clamp_(0, 1)
            self.signs.fill_(torch.nan)
