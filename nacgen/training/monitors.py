"""Small modules that follow adversarial training. Their buffers are saved with the run."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacgen.data.stream import Batch
from nacgen.errors import DivergenceError


class DivergenceMonitor(nn.Module):
    """A monitor that ends a run if its logits stay beyond a bound for `patience` images."""

    bound = 1_000.0  # largest mean absolute logit of a sound step
    images_beyond: Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("images_beyond", torch.zeros((), dtype=torch.int64))

    def observe(self, size: float, batch: Batch) -> None:
        """Record the mean absolute logit of one step, or raise if it was too large for `patience` images."""
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
                "anew with a lower learning rate or a higher penalty weight, and another --run-dir.",
                since,
            )


def images_beyond(modules: Mapping[str, nn.Module]) -> int:
    """Return the number of images for which logits have been beyond their bound, 0 without a monitor."""
    monitors = [module for module in modules.values() if isinstance(module, DivergenceMonitor)]
    return max((int(monitor.images_beyond) for monitor in monitors), default=0)


class LastValues(nn.Module):
    """A memory of named values that not every step computes, so that every row of the log has them.

    They are means over all processes, since a resumed run gives every process those of the first.
    """

    def __init__(self, accelerator: Accelerator, *names: str) -> None:
        super().__init__()
        self.accelerator = accelerator
        for name in names:
            self.register_buffer(name, torch.tensor(torch.nan))

    def forward(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the scalars of this step, completed by the last ones of earlier steps."""
        given = [name for name, _ in self.named_buffers() if name in logs]
        if given:
            values = torch.stack([logs[name].float() for name in given])
            means = self.accelerator.reduce(values, "mean")
            for name, mean in zip(given, means, strict=True):
                self.get_buffer(name).copy_(mean)
        known = {k: v.clone() for k, v in self.named_buffers() if not v.isnan()}
        return known | logs | known
