"""The update of NAC pretraining."""

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import rearrange
from torch import Tensor

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.stream import Batch
from nacgen.functional.nac import Relaxation, nac_bound, nac_loss
from nacgen.models.encoder import NACEncoder
from nacgen.training.distributed import gather_rows
from nacgen.training.update import descend


class NACUpdate:
    """Maximise the bound on the information that noisy codes carry about images.

    Args:
        accelerator: Prepared for this run.
        encoder: To be trained.
        optimizer: Over its parameters.
        views: How the two views of an image are drawn.
        relaxation: Of the codes, see `nac_loss`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        relaxation: Relaxation = "marginal",
    ) -> None:
        self.accelerator, self.encoder = accelerator, encoder
        self.views, self.relaxation = views, relaxation
        self.prepared, prepared_optimizer = accelerator.prepare(encoder, optimizer)
        self.modules = {"encoder": encoder}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"encoder": prepared_optimizer}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; `nac_bound` is that of the hard codes in this process's share.

        Args:
            batch: Images.

        Returns:
            Loss and bound in nats, gradient norm.
        """
        self.prepared.train()
        p = self.encoder.flip_probability
        views = torch.cat([random_view(batch, self.views, v) for v in ("view_1", "view_2")])
        code_logits, posterior_logits = (x.float() for x in self.prepared(views))
        posterior_logits = swap_views(posterior_logits)
        uniform = torch.cat([self._uniform(batch, v) for v in ("channel_1", "channel_2")])
        keys = gather_rows(code_logits)
        loss = nac_loss(code_logits, posterior_logits, uniform, p, self.relaxation, keys).mean()
        norm = descend(
            self.accelerator, loss, self.optimizers["encoder"], self.encoder.parameters(), batch
        )
        with torch.no_grad():
            bound = nac_bound(code_logits, posterior_logits, p, batch.generator("channel_report"))
        return {"loss": loss.detach(), "nac_bound": bound.mean(), "gradient_norm": norm}

    def _uniform(self, batch: Batch, purpose: str) -> Tensor:
        """What decides over the channel's flips in this process's share of one view, (b, k)."""
        draw = batch.generator(purpose)
        return batch.share(torch.rand(batch.global_size, self.encoder.code_dim, generator=draw))


def swap_views(rows: Tensor) -> Tensor:
    """Exchange the first and second half of the rows: each image's views change places."""
    return rearrange(rearrange(rows, "(v b) k -> v b k", v=2).flip(0), "v b k -> (v b) k")
