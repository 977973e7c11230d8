"""Flow matching: the straight path from an image to noise, its velocity, and the integral back along it.

Time 0 is the image, time 1 the noise.

Source:
    Lipman et al. 2023, arXiv:2210.02747; Liu, Gong & Liu 2023, arXiv:2209.03003 (straight paths); Karras et al.
    2022, arXiv:2206.00364, algorithm 1 (Heun's method, with evenly spaced times here).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # of noisy images (b, ...) at times (b,)


def straight_path(
    images: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], time: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Return the points `(1 - t) x + t e` on the way from images `x` to noise `e`.

    Example:
        >>> images, noise = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
        >>> straight_path(images, noise, torch.tensor([0.0, 0.25]))[:, 0, 0, 0]
        tensor([0.0000, 0.2500])
    """
    t = rearrange(time, "b -> b 1 1 1")
    return (1 - t) * images + t * noise


def flow_matching_loss(
    velocity: Float[Tensor, "b c h w"],
    images: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
) -> Float[Tensor, " b"]:
    """Compute the mean square of the difference to the path's velocity `e - x`, one value per image.

    Its minimum over all functions of point and time is reached by the mean velocity of the paths there.

    Example:
        >>> images, noise = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
        >>> flow_matching_loss(noise, images, noise)
        tensor([0., 0.])
    """
    return reduce((velocity - (noise - images)).square(), "b c h w -> b", "mean")


def integrate_flow(
    velocity: Velocity, noise: Float[Tensor, "b ..."], num_steps: int = 20
) -> Float[Tensor, "b ..."]:
    """Follow a velocity field from noise at time 1 to images at time 0 by Heun's method.

    Args:
        velocity: Function of points `(b, ...)` and times `(b,)` with the shape of the points; it is called twice
            a step.
        noise: Points at time 1.
        num_steps: Number of equal steps; the error falls with its square.

    Returns:
        Points at time 0.

    Raises:
        ValueError: If there is no step.

    Example:
        >>> noise = torch.ones(2, 3)
        >>> integrate_flow(lambda points, time: points, noise)[0, 0]  # e^-1 = 0.3679
        tensor(0.3680)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be one or more, got {num_steps}.")
    points, step = noise, 1 / num_steps
    times = torch.linspace(1, 0, num_steps + 1, dtype=noise.dtype, device=noise.device)
    for now, then in pairwise(times):
        slope = velocity(points, now.expand(len(points)))
        ahead = velocity(points - step * slope, then.expand(len(points)))
        points = points - step * (slope + ahead) / 2
    return points
