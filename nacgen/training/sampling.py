"""Image i from seed i: what scores, sample sheets and recipes/sample.py have in common."""

import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.randomness import normal_rows
from nacgen.functional.gan import great_circle
from nacgen.metrics import to_uint8
from nacgen.models.gan import Generator


def sample_images(
    generator: Generator, indices: Int64[Tensor, " b"], device: torch.device | str = "cpu"
) -> UInt8[Tensor, "b 3 h w"]:
    """Images by number, each from its own seed and, where there are classes, of each class in turn.

    Args:
        generator: In evaluation mode, on `device`.
        indices: Numbers of the images, zero or more.
        device: Where they are made.

    Returns:
        The same image for a number, whatever else is asked for.
    """
    z = normal_rows(0, "sample", indices, generator.latent_dim).to(device)
    labels = None
    if generator.num_classes is not None:
        labels = indices.to(device) % generator.num_classes
    with torch.no_grad():
        return to_uint8(generator(z, labels).float())


def interpolate(
    generator: Generator, num_rows: int, num_columns: int, device: torch.device | str = "cpu"
) -> UInt8[Tensor, "n 3 h w"]:
    """Rows of images whose latents lead from one sample to another of the same class.

    Args:
        generator: In evaluation mode, on `device`.
        num_rows: Row `r` is of class `r`, where there are classes.
        num_columns: Two or more.
        device: Where they are made.

    Returns:
        `num_rows * num_columns` images, row by row.
    """
    num_ends, width = 2 * num_rows, generator.latent_dim
    ends = normal_rows(0, "sample", torch.arange(num_ends), width).to(device)
    z = torch.stack([great_circle(a, b, num_columns) for a, b in ends.split(2)])
    labels = None
    if generator.num_classes is not None:
        classes = torch.arange(num_rows, device=device) % generator.num_classes
        labels = classes.repeat_interleave(num_columns)
    with torch.no_grad():
        return to_uint8(generator(rearrange(z, "r k z -> (r k) z"), labels).float())
