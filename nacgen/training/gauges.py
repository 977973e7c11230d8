"""What adversarial training watches itself by, saved with the run: all of it are buffers of small modules."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.data.adaptive_augment import adaptive_augment
from nacgen.data.stream import Batch
from nacgen.errors import DivergenceError


class AdaptiveAugmentation(nn.Module):
    """Augments more while the discriminator is too sure of its training images, less while it is not.

    Args:
        target: Mean sign of real logits to hold, -1 to 1.
        images_to_full: Images over which the probability may go from 0 to 1.

    Source:
        Karras et al. 2020, arXiv:2006.06676, section 3.
    """

    NUM_STEPS = 4  # between two adjustments
    probability: Tensor
    signs: Tensor

    def __init__(self, target: float, images_to_full: float) -> None:
        super().__init__()
        self.target, self.images_to_full = target, images_to_full
        self.register_buffer("probability", torch.zeros((), dtype=torch.float64))
        self.register_buffer("signs", torch.full((self.NUM_STEPS,), torch.nan))

    def forward(
        self, images: Float[Tensor, "b 3 h h"], batch: Batch, purpose: str
    ) -> Float[Tensor, "b 3 h h"]:
        """Augment images with today's probability, see `adaptive_augment`."""
        return adaptive_augment(images, batch, purpose, float(self.probability))

    def observe(self, sign: float, num_images: int) -> None:
        """Note a step; after every fourth, the probability moves.

        Args:
            sign: Mean sign of the step's real logits over all processes.
            num_images: Real images in the step over all processes.
        """
        self.signs[int(self.signs.isfinite().sum())] = sign
        if self.signs.isfinite().all():
            change = self.NUM_STEPS * num_images / self.images_to_full
            up = 1 if self.signs.mean() > self.target else -1
            self.probability.add_(up * change).clamp_(0, 1)
            self.signs.fill_(torch.nan)


class LogitWatch(nn.Module):
    """Ends a run whose logits stay beyond a bound.

    Args:
        bound: On the mean absolute logit of a step.
        patience: Images for which it may be exceeded.
        option: That sets the bound, for the message.
    """

    images_beyond: Tensor

    def __init__(self, bound: float, patience: int, option: str = "--optim.largest-logit") -> None:
        super().__init__()
        self.bound, self.patience, self.option = bound, patience, option
        self.register_buffer("images_beyond", torch.zeros((), dtype=torch.int64))

    def observe(self, size: float, batch: Batch) -> None:
        """Note a step.

        Args:
            size: Mean absolute logit over all processes.
            batch: Gives the position.

        Raises:
            DivergenceError: The bound has been exceeded in every step for too many images.
        """
        if size <= self.bound:
            self.images_beyond.zero_()
            return
        self.images_beyond.add_(batch.global_size)
        if self.images_beyond >= self.patience:
            now = batch.images_seen + batch.global_size
            since = now - int(self.images_beyond)
            raise DivergenceError(
                f"logits must stay below {self.bound:g} on average, but since {since} images seen they have been "
                f"beyond it, now {size:.3g} at {now}. Of the checkpoints only those from before are kept: start "
                "anew with a lower learning rate or a higher penalty weight and another --run-dir, or raise "
                f"{self.option} with it.",
                since,
            )


def images_beyond(modules: Mapping[str, nn.Module]) -> int:
    """For how many images logits have been beyond their bound by now, at the most of all watches.

    Args:
        modules: Of an update.

    Returns:
        Images; 0 where no bound is exceeded, or nothing watches.
    """
    watches = [module for module in modules.values() if isinstance(module, LogitWatch)]
    return max((int(watch.images_beyond) for watch in watches), default=0)


class LastValues(nn.Module):
    """Remembers gauges that not every step gives, so that every row of the log has them.

    Args:
        names: Of the gauges.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.tensor(torch.nan))

    def forward(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The gauges of this step, and of earlier ones those that it did not give.

        Args:
            logs: Scalars by name.

        Returns:
            All that is known.
        """
        for name, value in self.named_buffers():
            if name in logs:
                value.copy_(logs[name])
        return {k: v.clone() for k, v in self.named_buffers() if not v.isnan()} | logs
