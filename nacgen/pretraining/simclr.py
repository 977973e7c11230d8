"""The update of contrastive pretraining, in SimCLR's batch form and MoCo's queue form.

The code logits are the projection, so that the same encoder, views and evaluators serve every objective.

Source: Chen et al. 2020, arXiv:2002.05709; He et al. 2020, arXiv:1911.05722.
"""

from torch import Tensor

from nacgen.data.stream import Batch
from nacgen.functional.codes import effective_codes
from nacgen.functional.contrastive import info_nce, nt_xent
from nacgen.pretraining.base import STAGE_WEIGHT, EncoderUpdate, swap_views, two_views
from nacgen.system.processes import gather_rows


class SimCLRUpdate(EncoderUpdate):
    """Steps that tell the other view of an image from the views of all others, in the batch or a queue."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step; the effective number of codes is that of this process."""
        self.prepared.train()
        views = two_views(batch, self.views)
        outputs = (x.float() for x in self.prepared(views, detach=True))
        projections, _, *of_stages = outputs
        if self.keys is None:
            start = 2 * batch.start
            loss = nt_xent(projections, self.temperature, gather_rows(projections), start)
        else:
            with self.accelerator.autocast():
                own_keys, _ = self.keys(views)
            negatives = self.keys.queue.clone()  # of earlier images only
            loss = info_nce(projections, swap_views(own_keys), negatives, self.temperature)
            self.keys.push(own_keys, batch)
        mean = loss.mean()
        for rows in of_stages:
            own = nt_xent(rows, self.temperature, gather_rows(rows), 2 * batch.start)
            mean = mean + STAGE_WEIGHT * own.mean()
        norm = self.descend(mean, batch)
        if self.keys is not None:
            self.keys.follow(self.encoder)
        return {
            "loss": mean.detach(),
            "effective_codes": effective_codes(projections >= 0),
            "gradient_norm": norm,
        }
