"""The updates of contrastive pretraining, SimCLR's batch form and MoCo's queue form.

The code logits are the projection, so that the same encoder, views and evaluators serve every objective.

Source:
    Chen et al. 2020, arXiv:2002.05709; He et al. 2020, arXiv:1911.05722.
"""

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy
from nacgen.data.stream import Batch
from nacgen.functional.codes import effective_codes
from nacgen.functional.contrastive import info_nce, nt_xent
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.momentum import MomentumEncoder
from nacgen.pretraining.nac import swap_views, two_views
from nacgen.system.processes import gather_rows
from nacgen.training.update import descend


class SimCLRUpdate:
    """Tell the other view of an image from the views of all others.

    Args:
        accelerator: Prepared for this run.
        encoder: To be trained.
        optimizer: Over its parameters.
        views: How the two views of an image are drawn.
        temperature: Of the cosine similarities.
        keys: A momentum encoder whose queue gives the negatives. Absent: the batch does.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        temperature: float = 0.5,
        keys: MomentumEncoder | None = None,
    ) -> None:
        self.accelerator, self.encoder = accelerator, encoder
        self.views, self.temperature = views, temperature
        self.keys = None if keys is None else keys.to(accelerator.device)
        self.prepared, prepared_optimizer = accelerator.prepare(encoder, optimizer)
        self.modules: dict[str, nn.Module] = {"encoder": encoder}
        if keys is not None:
            self.modules |= {"momentum_encoder": keys}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"encoder": prepared_optimizer}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step.

        Args:
            batch: Images.

        Returns:
            Loss in nats, effective number of codes in this process's share, gradient norm.
        """
        self.prepared.train()
        views = two_views(batch, self.views)
        projections = self.prepared(views, detach=True)[0].float()
        if self.keys is None:
            start = 2 * batch.start
            loss = nt_xent(projections, self.temperature, gather_rows(projections), start)
        else:
            with self.accelerator.autocast():
                own_keys, _ = self.keys(views)
            negatives = self.keys.queue.clone()  # of earlier images only
            loss = info_nce(projections, swap_views(own_keys), negatives, self.temperature)
            self.keys.push(own_keys, batch)
        optimizer = self.optimizers["encoder"]
        mean = loss.mean()
        norm = descend(self.accelerator, mean, optimizer, self.encoder.parameters(), batch)
        if self.keys is not None:
            self.keys.follow(self.encoder)
        return {
            "loss": mean.detach(),
            "effective_codes": effective_codes(projections >= 0),
            "gradient_norm": norm,
        }
