"""The parts that updates of pretraining share: an encoder, heads of its stages, a momentum encoder with a queue.

Source: He et al. 2020, arXiv:1911.05722 (the queue).
"""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import rearrange
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.stream import Batch
from nacgen.errors import ConfigurationError
from nacgen.models.encoder import CodeHead, NACEncoder
from nacgen.models.folder import check_memory
from nacgen.pretraining.options import NACConfig
from nacgen.system.processes import gather_rows
from nacgen.system.randomness import generator
from nacgen.training.update import descend

STAGE_WEIGHT = 0.5  # of the loss of a stage's codes, beside that of the encoder's


class StagedEncoder(nn.Module):
    """An encoder with code heads on the pooled maps of earlier stages, which serve its training only."""

    def __init__(self, encoder: NACEncoder, stages: Sequence[str]) -> None:
        super().__init__()
        widths = dict(list(encoder.backbone.stage_channels.items())[:-1])
        if unknown := [stage for stage in stages if stage not in widths]:
            raise ConfigurationError(
                f"stages must be among {', '.join(widths)}, those before the last, got {unknown[0]!r}. Correct "
                "--stages."
            )
        normalization = encoder.options["code_normalization"]
        self.encoder = encoder
        self.heads = nn.ModuleDict(
            {stage: CodeHead(widths[stage], encoder.code_dim, normalization) for stage in stages}
        )

    def forward(self, images: Tensor, detach: bool = False) -> tuple[Tensor, ...]:
        """Compute what the encoder's `forward` does, then the code logits of each stage, `(b, k)` each."""
        maps = self.encoder.feature_maps(images)
        pool = self.encoder.backbone.pool
        features = pool(list(maps.values())[-1])
        of_stages = (head(pool(maps[stage])) for stage, head in self.heads.items())
        return (*self.encoder.logits_of_features(features, detach), *of_stages)


class MomentumEncoder(nn.Module):
    """An average of an encoder's weights and buffers, with a queue of its code logits.

    The queue holds the newest rows of all processes and is the same on each of them. The place of a row is
    a function of the position in the stream, so nothing but the rows is saved.
    """

    queue: Tensor

    def __init__(self, encoder: NACEncoder, queue_size: int, momentum: float) -> None:
        super().__init__()
        check_memory(queue_size * encoder.code_dim, f"queue.size {queue_size} and code_dim")
        self.average = AveragedModel(
            encoder, multi_avg_fn=get_ema_multi_avg_fn(momentum), use_buffers=True
        )
        self.average.requires_grad_(False)
        self.average.n_averaged.fill_(1)  # it is a copy already; its first step is an average too
        # Random at first, as in MoCo: nothing that an objective could learn from.
        draw = generator(0, "queue")
        self.register_buffer("queue", torch.randn(queue_size, encoder.code_dim, generator=draw))

    @torch.no_grad()
    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the average's code and posterior logits of this process's views, `(2b, k)` each.

        BatchNorm uses the batch, as in the encoder that trains, so that both outputs have one scale.
        """
        self.average.train()
        code_logits, posterior_logits = self.average(views)
        return code_logits.float(), posterior_logits.float()

    def push(self, code_logits: Tensor, batch: Batch) -> Tensor:
        """Put a batch's rows in the place of the queue's oldest; return all that came from images, `(n, k)`."""
        fresh = gather_rows(code_logits)
        size, pushed = len(self.queue), 2 * batch.images_seen
        rows = (pushed + torch.arange(len(fresh), device=fresh.device)) % size
        self.queue[rows] = fresh
        return self.queue[: min(size, pushed + len(fresh))].clone()

    def follow(self, encoder: NACEncoder) -> None:
        """Move the average towards the encoder."""
        self.average.update_parameters(encoder)


class EncoderUpdate:
    """An encoder with its optimizer, and a momentum encoder or heads of stages where the objective has them."""

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        options: NACConfig | None = None,
        keys: MomentumEncoder | None = None,
        staged: StagedEncoder | None = None,
        temperature: float = 0.5,
    ) -> None:
        self.accelerator, self.encoder, self.views = accelerator, encoder, views
        self.trained = encoder if staged is None else staged
        self.options, self.keys, self.temperature = options or NACConfig(), keys, temperature
        self.prepared, prepared_optimizer = accelerator.prepare(self.trained, optimizer)
        self.modules: dict[str, nn.Module] = {"encoder": encoder}
        if staged is not None:
            self.modules["stage_heads"] = staged.heads
        if keys is not None:
            self.modules["momentum_encoder"] = keys.to(accelerator.device)
        self.optimizers: dict[str, AcceleratedOptimizer] = {"encoder": prepared_optimizer}

    def descend(self, loss: Tensor, batch: Batch) -> Tensor:
        """Take one step of the encoder, with the heads of its stages, and return the norm of its gradient."""
        optimizer = self.optimizers["encoder"]
        return descend(self.accelerator, loss, optimizer, self.trained.parameters(), batch)


def two_views(batch: Batch, policy: ViewPolicy) -> Tensor:
    """Draw both views of each image, the first ones above the second, `(2b, 3, h, w)`."""
    return torch.cat([random_view(batch, policy, view) for view in ("view_1", "view_2")])


def swap_views(rows: Tensor) -> Tensor:
    """Exchange the first and second half of the rows: each image's views change places."""
    return rearrange(rearrange(rows, "(v b) k -> v b k", v=2).flip(0), "v b k -> (v b) k")
