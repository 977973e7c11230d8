"""The updates of NAC pretraining: keys from the batch, or from a momentum encoder's queue."""

import torch
from torch import Tensor

from nacgen.data.stream import Batch
from nacgen.functional.codes import effective_codes
from nacgen.functional.nac import nac_bound, nac_loss, posterior_log_likelihood, received_codes
from nacgen.pretraining.base import EncoderUpdate, MomentumEncoder, swap_views, two_views
from nacgen.system.processes import gather_rows


class NACUpdate(EncoderUpdate):
    """Steps that raise the bound on the information that noisy codes carry about images."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step; bound and effective number are those of the hard codes of this process."""
        self.prepared.train()
        views = two_views(batch, self.views)
        code_logits, posterior_logits = (x.float() for x in self.prepared(views))
        posterior_logits = swap_views(posterior_logits)
        # The mixture is over the codes of all processes.
        p, keys = self.encoder.flip_probability, gather_rows(code_logits)
        uniform, relaxation = channel_uniform(batch, code_logits.shape[1]), self.options.relaxation
        rows = nac_loss(code_logits, posterior_logits, uniform, p, relaxation, keys)
        return self.step(batch, rows.mean(), code_logits, posterior_logits)

    def step(
        self, batch: Batch, loss: Tensor, code_logits: Tensor, posterior_logits: Tensor
    ) -> dict[str, Tensor]:
        """Descend, and measure the bound and the number of codes, which show a collapse at once."""
        norm = self.descend(loss, batch)
        p, draw = self.encoder.flip_probability, batch.generator("channel_report")
        with torch.no_grad():
            bound = nac_bound(code_logits, posterior_logits, p, draw).mean()
        return {
            "loss": loss.detach(),
            "nac_bound": bound,
            "effective_codes": effective_codes(code_logits >= 0),
            "gradient_norm": norm,
        }


class NACQueueUpdate(NACUpdate):
    """Steps whose keys are the codes of a momentum encoder, many batches of them.

    The posterior is the momentum encoder's, of the other view. With its own parameters it is trained to predict
    received codes; its gradient reaches neither codes nor features. The authors sum that term over the two views
    of an image and average all else; here both are averaged, but with `divide` it has their double weight.
    """

    keys: MomentumEncoder

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step, see `NACUpdate.update`."""
        self.prepared.train()
        p, relaxation = self.encoder.flip_probability, self.options.relaxation
        views = two_views(batch, self.views)
        # Keys and posterior of the momentum encoder, codes of the encoder that trains.
        with self.accelerator.autocast():
            key_logits, key_posterior = self.keys(views)
        keys, key_posterior = self.keys.push(key_logits, batch), swap_views(key_posterior)
        code_logits, own_posterior = (x.float() for x in self.prepared(views, detach=True))
        own_posterior = swap_views(own_posterior)
        # The loss of a draw of the channel.
        uniform = channel_uniform(batch, code_logits.shape[1])
        divide = self.options.divide
        rows = nac_loss(code_logits, key_posterior, uniform, p, relaxation, keys, divide)
        if self.encoder.options["posterior"] != "shared":
            received = received_codes(code_logits.detach(), uniform, p, relaxation)
            weight = 2 if divide else 1
            rows = rows - weight * posterior_log_likelihood(received, own_posterior)
        if self.options.code_penalty:
            rows = rows + self.options.code_penalty * torch.tanh(code_logits).square().sum(1)
        # One step, which the momentum encoder follows.
        logs = self.step(batch, rows.mean(), code_logits, own_posterior)
        self.keys.follow(self.encoder)
        return logs


def channel_uniform(batch: Batch, code_dim: int) -> Tensor:
    """Draw the numbers that decide over the channel's flips in this process's views, `(2b, k)`."""
    draws = [batch.generator(purpose) for purpose in ("channel_1", "channel_2")]
    views = [torch.rand(batch.global_size, code_dim, generator=draw) for draw in draws]
    return torch.cat([batch.local(view) for view in views])
