"""What adversarial training watches itself by, saved with the run: all of it are buffers of small modules."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nacgen.data.stream import Batch
from nacgen.errors import DivergenceError


class DivergenceMonitor(nn.Module):
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
    watches = [module for module in modules.values() if isinstance(module, DivergenceMonitor)]
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
