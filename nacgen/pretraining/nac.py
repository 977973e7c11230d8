"""The updates of NAC pretraining: keys from the batch, or from a momentum encoder's queue."""

import torch
from torch import Tensor

from nacgen.data.stream import Batch
from nacgen.functional.closed_form import (
    closed_form_bound,
    closed_form_loss,
    direction_loss,
    information_ceiling,
    temperature_of_channel,
)
from nacgen.functional.codes import effective_codes
from nacgen.functional.nac import (
    channel_capacity,
    marginal_posterior_logits,
    nac_bound,
    nac_loss,
    posterior_log_likelihood,
    received_codes,
)
from nacgen.pretraining.base import (
    STAGE_WEIGHT,
    EncoderUpdate,
    MomentumEncoder,
    swap_views,
    two_views,
)
from nacgen.system.processes import gather_rows


class NACUpdate(EncoderUpdate):
    """Steps that raise the bound on the information that noisy codes carry about images."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step; bound and effective number are those of the hard codes of this process."""
        self.prepared.train()
        views = two_views(batch, self.views)
        code_logits, posterior_logits, *of_stages = (x.float() for x in self.prepared(views))
        posterior_logits = swap_views(posterior_logits)
        loss = self.rows_of_loss(
            batch, code_logits, posterior_logits, swap_views(code_logits)
        ).mean()
        # Codes of earlier stages have channels of their own.
        for i, codes in enumerate(of_stages):
            others = swap_views(codes)
            posterior = marginal_posterior_logits(others, self.encoder.flip_probability)
            rows = self.rows_of_loss(batch, codes, posterior, others, channel=f"_stage_{i}")
            loss = loss + STAGE_WEIGHT * rows.mean()
        return self.step(batch, loss, code_logits, posterior_logits)

    def rows_of_loss(
        self,
        batch: Batch,
        code_logits: Tensor,
        posterior_logits: Tensor,
        other_logits: Tensor,
        keys: Tensor | None = None,
        channel: str = "",
    ) -> Tensor:
        """Compute the loss of each code; posterior and other code logits are of its image's other view.

        Without keys the mixture is over the codes of all processes.
        """
        keys = gather_rows(code_logits) if keys is None else keys
        p, relaxation = self.encoder.flip_probability, self.options.relaxation
        own_start = None if self.options.own_row else 2 * batch.start
        if relaxation == "direction":
            return direction_loss(code_logits, other_logits, p, keys, own_start)
        if relaxation == "closed_form":
            return closed_form_loss(code_logits, posterior_logits, p, keys, own_start)
        uniform, divide = channel_uniform(batch, code_logits.shape[1], channel), self.options.divide
        return nac_loss(code_logits, posterior_logits, uniform, p, relaxation, keys, divide)

    def step(
        self, batch: Batch, loss: Tensor, code_logits: Tensor, posterior_logits: Tensor
    ) -> dict[str, Tensor]:
        """Descend, and measure the bound and the number of codes, which show a collapse at once."""
        norm = self.descend(loss, batch)
        p, draw = self.encoder.flip_probability, batch.generator("channel_report")
        with torch.no_grad():
            bounds = {"nac_bound": nac_bound(code_logits, posterior_logits, p, draw).mean()}
            if self.options.relaxation in ("direction", "closed_form"):
                closed = closed_form_bound(code_logits, posterior_logits, p)
                bounds["closed_form_bound"] = closed.mean()
        return {
            "loss": loss.detach(),
            **bounds,
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
        others = swap_views(key_logits)
        rows = self.rows_of_loss(batch, code_logits, key_posterior, others, keys)
        if self.encoder.options["posterior"] != "shared":
            if relaxation == "closed_form":  # the term is linear in the received code: its mean
                received = (1 - 2 * p) * torch.tanh(code_logits.detach())
            else:
                assert relaxation != "direction"  # build_update refuses it
                uniform = channel_uniform(batch, code_logits.shape[1])
                received = received_codes(code_logits.detach(), uniform, p, relaxation)
            weight = 2 if self.options.divide else 1
            rows = rows - weight * posterior_log_likelihood(received, own_posterior)
        if self.options.code_penalty:
            rows = rows + self.options.code_penalty * torch.tanh(code_logits).square().sum(1)
        # One step, which the momentum encoder follows.
        logs = self.step(batch, rows.mean(), code_logits, own_posterior)
        self.keys.follow(self.encoder)
        return logs


def channel_uniform(batch: Batch, code_dim: int, channel: str = "") -> Tensor:
    """Draw the numbers that decide over the channel's flips in this process's views, `(2b, k)`."""
    draws = [batch.generator(f"channel_{view}{channel}") for view in (1, 2)]
    views = [torch.rand(batch.global_size, code_dim, generator=draw) for draw in draws]
    return torch.cat([batch.local(view) for view in views])


def channel_summary(flip_probability: float, code_dim: int, num_codes: int) -> dict[str, float]:
    """Return what a channel is and limits, with `num_codes` codes compared in a step; the report explains it."""
    return {
        "flip_probability": flip_probability,
        "code_dim": code_dim,
        "num_codes": num_codes,
        "capacity": code_dim * channel_capacity(flip_probability),  # nats
        "ceiling": information_ceiling(flip_probability, code_dim, num_codes),  # nats
        "temperature": temperature_of_channel(flip_probability, code_dim),
    }
