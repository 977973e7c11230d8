"""The interface of a training method, learning-rate schedules, and the guarded optimizer step."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nacgen.data.stream import Batch
from nacgen.errors import NonFiniteError

Schedule = Callable[[int], float]


class Update(Protocol):
    """A method of training. It neither logs, saves nor counts; the loop does."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Modules that checkpoints hold, by name."""

    @property
    def optimizers(self) -> Mapping[str, AcceleratedOptimizer]:
        """Optimizers that checkpoints hold and that the loop gives learning rates, by name."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Train on this process's part of a batch, and return losses and other logged values as scalars."""


def warmup_cosine(total_images: int, warmup_images: int = 0) -> Schedule:
    """Return a learning-rate factor that rises linearly to 1, then falls along half a cosine to 0.

    Like every schedule it is a function of the images seen before a step; lengths are numbers of images, too.

    Example:
        >>> factor = warmup_cosine(100, warmup_images=10)
        >>> factor(4), factor(55)
        (0.5, 0.5)
    """

    def factor(images_seen: int) -> float:
        if images_seen < warmup_images:
            return (images_seen + 1) / warmup_images
        progress = (images_seen - warmup_images) / max(1, total_images - warmup_images)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def linear_decay(total_images: int) -> Schedule:
    """Return a learning-rate factor that falls linearly from 1 to 0."""
    return lambda images_seen: 1 - images_seen / total_images


def cosine_between(first: float, last: float, total_images: int) -> Schedule:
    """Return a value that moves from `first` to `last` along half a cosine."""
    falling = warmup_cosine(total_images)
    return lambda images_seen: last + (first - last) * falling(images_seen)


def constant(images_seen: int) -> float:
    """Return a learning-rate factor of 1."""
    return 1.0


def moving_average(
    module: nn.Module, images_between: int, half_life: float, device: torch.device
) -> AveragedModel:
    """Return a moving average of weights and buffers, with its half-life and the time between steps in images."""
    average = get_ema_multi_avg_fn(0.5 ** (images_between / half_life))
    return AveragedModel(module, device, multi_avg_fn=average, use_buffers=True).eval()


def group_factor(group: Mapping[str, Any], images_seen: int) -> float:
    """Return the learning-rate factor of a parameter group, from 0 to 1.

    It is 0 before the group's `start_images`, and rises to 1 over the next `ramp_images`; each is 0 if absent.
    """
    since = images_seen - int(group.get("start_images", 0))
    if since < 0:
        return 0.0
    return min(1.0, (since + 1) / max(1, int(group.get("ramp_images", 0))))


def descend(
    accelerator: Accelerator,
    loss: Tensor,
    optimizer: AcceleratedOptimizer,
    parameters: Iterable[nn.Parameter],
    batch: Batch,
    network: str = "",
    max_norm: float | None = None,
) -> Tensor:
    """Take the gradient of a scalar loss, step along it if both are finite, and return the gradient's norm.

    `network` names the trained network in the `NonFiniteError`, if there are several. A gradient longer than
    `max_norm` is shortened to it.
    """
    optimizer.zero_grad()
    accelerator.backward(loss)
    return take_step(loss.detach(), optimizer, parameters, batch, network, max_norm)


def take_step(
    loss: Tensor,
    optimizer: AcceleratedOptimizer,
    parameters: Iterable[nn.Parameter],
    batch: Batch,
    network: str = "",
    max_norm: float | None = None,
) -> Tensor:
    """Step along gradients that are there already, as the second half of `descend`."""
    # Gradients are averages over all processes, so all come to the same decision.
    parameters = list(parameters)
    norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
    if not torch.isfinite(norm + loss.float()):
        raise NonFiniteError(
            f"the {network and f'{network} '}loss must stay finite, but at {batch.images_seen} images seen "
            f"it is {loss.item()} with a gradient of norm {norm.item()}. Nothing of this step was saved, and "
            "resuming repeats it: start anew with a lower learning rate and another --run-dir."
        )
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    optimizer.step()
    return norm
