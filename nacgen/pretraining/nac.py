"""The updates of NAC pretraining: keys from the batch, or from a momentum encoder's queue."""

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import rearrange
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.stream import Batch
from nacgen.functional.codes import effective_codes
from nacgen.functional.nac import (
    Relaxation,
    nac_bound,
    nac_loss,
    posterior_log_likelihood,
    received_codes,
)
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.momentum import MomentumEncoder
from nacgen.system.processes import gather_rows
from nacgen.training.update import descend


class NACUpdate:
    """Maximise the bound on the information that noisy codes carry about images.

    Args:
        accelerator: Prepared for this run.
        encoder: To be trained.
        optimizer: Over its parameters.
        views: How the two views of an image are drawn.
        relaxation: Of the codes, see `nac_loss`.
        num_draws: Of the channel for each code; the loss is their mean, which makes its gradient less noisy.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        relaxation: Relaxation = "marginal",
        num_draws: int = 1,
    ) -> None:
        self.accelerator, self.encoder, self.num_draws = accelerator, encoder, num_draws
        self.views, self.relaxation = views, relaxation
        self.prepared, prepared_optimizer = accelerator.prepare(encoder, optimizer)
        self.modules: dict[str, nn.Module] = {"encoder": encoder}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"encoder": prepared_optimizer}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; `nac_bound` is that of the hard codes in this process's share.

        Args:
            batch: Images.

        Returns:
            Loss and bound in nats, effective number of codes in this process's share, gradient norm.
        """
        self.prepared.train()
        views = two_views(batch, self.views)
        code_logits, posterior_logits = (x.float() for x in self.prepared(views))
        posterior_logits = swap_views(posterior_logits)
        loss = self.loss(batch, code_logits, posterior_logits).mean()
        return self.step(batch, loss, code_logits, posterior_logits)

    def loss(self, batch: Batch, code_logits: Tensor, posterior_logits: Tensor) -> Tensor:
        """Nats for each code of this process, `(2b,)`; the mixture is over those of all processes."""
        p, keys = self.encoder.flip_probability, gather_rows(code_logits)
        draws = [
            nac_loss(code_logits, posterior_logits, uniform, p, self.relaxation, keys)
            for uniform in channel_uniforms(batch, code_logits.shape[1], self.num_draws)
        ]
        return torch.stack(draws).mean(0)

    def step(
        self, batch: Batch, loss: Tensor, code_logits: Tensor, posterior_logits: Tensor
    ) -> dict[str, Tensor]:
        """Descend, and measure the bound and how many codes there are: a collapse shows at once."""
        norm = descend(
            self.accelerator, loss, self.optimizers["encoder"], self.encoder.parameters(), batch
        )
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
    """The same with the codes of a momentum encoder as keys, many batches of them.

    The posterior is the momentum encoder's, of the other view; what is learned of the posterior alone is
    trained to predict received codes, and neither codes nor features feel it. Keys of earlier steps make
    the value an estimate of the bound.

    Args:
        accelerator: Prepared for this run.
        encoder: To be trained.
        optimizer: Over its parameters.
        views: How the two views of an image are drawn.
        relaxation: Of the codes, see `nac_loss`.
        keys: The momentum encoder with its queue.
        num_draws: Of the channel for each code.
        code_penalty: Weight of the relaxed codes' summed squares.
        divide: The authors' scale of inner products, see `mixture_log_likelihood`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        relaxation: Relaxation = "marginal",
        num_draws: int = 1,
        *,
        keys: MomentumEncoder,
        code_penalty: float = 0.0,
        divide: bool = False,
    ) -> None:
        super().__init__(accelerator, encoder, optimizer, views, relaxation, num_draws)
        self.keys = keys.to(accelerator.device)
        self.code_penalty, self.divide = code_penalty, divide
        self.modules |= {"momentum_encoder": keys}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; `nac_bound` is that of the hard codes in this process's share.

        Args:
            batch: Images.

        Returns:
            Loss and bound in nats, effective number of codes in this process's share, gradient norm.
        """
        self.prepared.train()
        p, views = self.encoder.flip_probability, two_views(batch, self.views)
        with self.accelerator.autocast():
            key_logits, key_posterior = self.keys(views)
        keys = self.keys.push(key_logits, batch)
        code_logits, own_posterior = (x.float() for x in self.prepared(views, detach=True))
        key_posterior, relaxed = swap_views(key_posterior), self.relaxation
        draws = []
        for uniform in channel_uniforms(batch, code_logits.shape[1], self.num_draws):
            rows = nac_loss(code_logits, key_posterior, uniform, p, relaxed, keys, self.divide)
            if self.encoder.options["posterior"] != "shared":
                received = received_codes(code_logits.detach(), uniform, p, relaxed)
                rows = rows - posterior_log_likelihood(received, swap_views(own_posterior))
            draws.append(rows)
        rows = torch.stack(draws).mean(0)
        if self.code_penalty:
            rows = rows + self.code_penalty * torch.tanh(code_logits).square().sum(1)
        logs = self.step(batch, rows.mean(), code_logits, swap_views(own_posterior))
        self.keys.follow(self.encoder)
        return logs


def two_views(batch: Batch, policy: ViewPolicy) -> Tensor:
    """Both views of each image, the first ones above the second, `(2b, 3, h, w)`."""
    return torch.cat([random_view(batch, policy, view) for view in ("view_1", "view_2")])


def channel_uniforms(batch: Batch, code_dim: int, num_draws: int) -> list[Tensor]:
    """What decides over the channel's flips in this process's share of both views, `(2b, k)` a draw."""
    views = []
    for purpose in ("channel_1", "channel_2"):
        draw = batch.generator(purpose)
        views.append(
            [torch.rand(batch.global_size, code_dim, generator=draw) for _ in range(num_draws)]
        )
    return [torch.cat([batch.local(view) for view in pair]) for pair in zip(*views, strict=True)]


def swap_views(rows: Tensor) -> Tensor:
    """Exchange the first and second half of the rows: each image's views change places."""
    return rearrange(rearrange(rows, "(v b) k -> v b k", v=2).flip(0), "v b k -> (v b) k")
