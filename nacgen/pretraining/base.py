"""The parts that the updates of pretraining share: a prepared encoder, two views of each image, one step."""

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import rearrange
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.stream import Batch
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.momentum import MomentumEncoder
from nacgen.training.update import descend


class EncoderUpdate:
    """An encoder with its optimizer, and with a momentum encoder where the objective has a queue."""

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        keys: MomentumEncoder | None = None,
    ) -> None:
        self.accelerator, self.encoder, self.views, self.keys = accelerator, encoder, views, keys
        self.prepared, prepared_optimizer = accelerator.prepare(encoder, optimizer)
        self.modules: dict[str, nn.Module] = {"encoder": encoder}
        if keys is not None:
            self.modules["momentum_encoder"] = keys.to(accelerator.device)
        self.optimizers: dict[str, AcceleratedOptimizer] = {"encoder": prepared_optimizer}

    def descend(self, loss: Tensor, batch: Batch) -> Tensor:
        """Take one step of the encoder and return the norm of its gradient."""
        optimizer = self.optimizers["encoder"]
        return descend(self.accelerator, loss, optimizer, self.encoder.parameters(), batch)


def two_views(batch: Batch, policy: ViewPolicy) -> Tensor:
    """Draw both views of each image, the first ones above the second, `(2b, 3, h, w)`."""
    return torch.cat([random_view(batch, policy, view) for view in ("view_1", "view_2")])


def swap_views(rows: Tensor) -> Tensor:
    """Exchange the first and second half of the rows: each image's views change places."""
    return rearrange(rearrange(rows, "(v b) k -> v b k", v=2).flip(0), "v b k -> (v b) k")
