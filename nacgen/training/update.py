"""What an update is, and the pieces that several of them use."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from nacgen.data.stream import Batch
from nacgen.errors import NonFiniteError

Schedule = Callable[[int], float]


class Update(Protocol):
    """One method of training. It neither logs, saves nor counts; the loop does."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What is saved, by name."""
        ...

    @property
    def optimizers(self) -> Mapping[str, AcceleratedOptimizer]:
        """What is stepped, saved and given learning rates, by name."""
        ...

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Train on this process's share of a batch; losses and gauges as scalars."""
        ...


def warmup_cosine(total_images: int, warmup_images: int = 0) -> Schedule:
    """A learning-rate factor: linear warm-up to 1, then half a cosine to 0.

    Args:
        total_images: Length of training.
        warmup_images: Length of the warm-up.

    Returns:
        The factor as a function of the images seen before a step.
    """

    def factor(images_seen: int) -> float:
        if images_seen < warmup_images:
            return (images_seen + 1) / warmup_images
        progress = (images_seen - warmup_images) / max(1, total_images - warmup_images)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def linear_decay(total_images: int) -> Schedule:
    """A learning-rate factor that falls from 1 to 0 in a line.

    Args:
        total_images: Length of training.

    Returns:
        The factor as a function of the images seen before a step.
    """
    return lambda images_seen: 1 - images_seen / total_images


def cosine_between(first: float, last: float, total_images: int) -> Schedule:
    """A value that goes from one number to another along half a cosine.

    Args:
        first: At the start.
        last: At the end.
        total_images: Length of training.

    Returns:
        The value as a function of the images seen before a step.
    """
    falling = warmup_cosine(total_images)
    return lambda images_seen: last + (first - last) * falling(images_seen)


def constant(images_seen: int) -> float:
    """A learning-rate factor of 1."""
    return 1.0


def group_factor(group: Mapping[str, Any], images_seen: int) -> float:
    """Factor on the learning rate of a parameter group that starts late, or rises slowly.

    Args:
        group: With `start_images`, before which the factor is 0, and `ramp_images`, over which it rises to 1;
            each 0 where absent.
        images_seen: Before the step.

    Returns:
        0 to 1.
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
) -> Tensor:
    """Backward pass and optimizer step, unless loss or gradient are not finite.

    Gradients are averaged over processes before they are looked at, so all of them agree.

    Args:
        accelerator: Runs the backward pass.
        loss: Scalar.
        optimizer: Steps, and forgets the gradients.
        parameters: Of the optimizer.
        batch: Names the position in the error.
        network: Names in the error what is trained, where there are several.

    Returns:
        The norm of the gradient.

    Raises:
        NonFiniteError: Loss or gradient is NaN or infinite; these parameters keep their values.
    """
    optimizer.zero_grad()
    accelerator.backward(loss)
    return take_step(loss.detach(), optimizer, parameters, batch, network)


def take_step(
    loss: Tensor,
    optimizer: AcceleratedOptimizer,
    parameters: Iterable[nn.Parameter],
    batch: Batch,
    network: str = "",
) -> Tensor:
    """Step along gradients that are there already, unless they or the loss are not finite.

    Args:
        loss: What they are the gradients of, for the error.
        optimizer: Steps.
        parameters: Of the optimizer.
        batch: Names the position in the error.
        network: Names in the error what is trained, where there are several.

    Returns:
        The norm of the gradient.

    Raises:
        NonFiniteError: Loss or gradient is NaN or infinite; these parameters keep their values.
    """
    norm = torch.nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
    if not torch.isfinite(norm + loss.float()):
        raise NonFiniteError(
            f"the {network and f'{network} '}loss must stay finite, but at {batch.images_seen} images seen "
            f"it is {loss.item()} with a gradient of norm {norm.item()}. Nothing of this step was saved, and "
            "resuming repeats it: start anew with a lower learning rate and another --run-dir."
        )
    optimizer.step()
    return norm
