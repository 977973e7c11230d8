"""The training of a discriminator, for GANs and for VAEs with an adversary: losses, lazy R1 and R2, micro-batches.

Source:
    Mescheder et al. 2018, arXiv:1801.04406 (R1); Huang et al. 2024, arXiv:2501.05441 (RpGAN with R1 and R2);
    Karras et al. 2020, arXiv:1912.04958, section 3.2 (lazy penalties).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nacgen.data.stream import Batch
from nacgen.errors import ConfigurationError
from nacgen.functional.gan import ADVERSARIAL_LOSSES, squared_gradient_norm
from nacgen.training.monitors import DivergenceMonitor
from nacgen.training.update import Schedule, take_step

Logs = dict[str, Tensor]


class DiscriminatorStep:
    """One optimizer step of a discriminator that tells real from generated images.

    `discriminator(images, full_precision=...)` returns logits of each image alone; `optimizer` holds its trainable
    parameters.

    Args:
        monitor: Monitor that ends the run if logits stay too large.
        loss: Name of a pair of losses in `ADVERSARIAL_LOSSES`.
        penalty_weight: Gamma of R1 and R2 as a function of the images seen; 0 for no penalty.
        penalty_every: Steps between two penalties, whose weight is multiplied by it.
        micro_batches: Parts in which a process's images pass the networks.
        is_conditional: True if the discriminator takes `labels`, too.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        discriminator: nn.Module,
        optimizer: torch.optim.Optimizer,
        monitor: DivergenceMonitor,
        *,
        loss: str = "rpgan",
        penalty_weight: Schedule,
        penalty_every: int = 4,
        micro_batches: int = 1,
        is_conditional: bool = False,
    ) -> None:
        self.accelerator, self.discriminator, self.monitor = accelerator, discriminator, monitor
        self.trainable = [p for p in discriminator.parameters() if p.requires_grad]
        if not self.trainable:
            raise ConfigurationError(
                "the discriminator must have parameters that train, but all of its "
                f"{sum(p.numel() for p in discriminator.parameters())} are frozen. Give it a head that is not."
            )
        self.is_relativistic = loss == "rpgan"
        self.loss, self.loss_generator = ADVERSARIAL_LOSSES[loss]
        self.penalty_weight, self.penalty_every = penalty_weight, penalty_every
        self.micro_batches, self.is_conditional = micro_batches, is_conditional
        self.prepared, self.optimizer = accelerator.prepare(discriminator, optimizer)

    def __call__(self, batch: Batch, pair: Callable[[Batch], Tensor]) -> tuple[Logs, float]:
        """Take one step; return values to log, and the mean sign of real logits over all processes.

        `pair` returns the real images of a micro-batch above as many generated ones, `(2b, 3, h, w)` in [-1, 1],
        without gradient.

        Raises:
            NonFiniteError: The loss or a gradient is NaN or infinite; the weights keep their values.
            DivergenceError: Logits have been too large for too long.
        """
        weight = self.penalty_weight(batch.images_seen)
        step = batch.images_seen // batch.global_size
        is_penalized = weight > 0 and step % self.penalty_every == 0

        def forward(part: Batch) -> tuple[Tensor, Logs]:
            images = pair(part).requires_grad_(is_penalized)
            logits = self.logits(self.prepared, images, part, full_precision=is_penalized)
            real, fake = logits.chunk(2)
            loss = self.loss(real, fake).mean()
            logs = {"loss_discriminator": loss}
            logs |= {"logits_real": real.mean(), "logits_fake": fake.mean()}
            logs |= self.confidence(real.detach(), fake.detach())
            if is_penalized:
                r1, r2 = (x.mean() for x in squared_gradient_norm(logits, images).chunk(2))
                loss = loss + weight / 2 * self.penalty_every * (r1 + r2)
                logs |= {"r1_penalty": r1, "r2_penalty": r2}
            return loss, logs

        parts = batch.split(self.micro_batches)
        loss, logs = accumulate(self.accelerator, self.prepared, self.optimizer, parts, forward)
        means = torch.stack([logs["sign_real"], logs.pop("size_logits")])
        sign, size = self.accelerator.reduce(means, "mean").tolist()
        norm = take_step(loss, self.optimizer, self.trainable, batch, "discriminator's")
        self.monitor.observe(size, batch)
        return logs | {"gradient_norm_discriminator": norm}, sign

    def generator_loss(self, images_real: Tensor, images_fake: Tensor, batch: Batch) -> Tensor:
        """Compute the generator's mean loss through the discriminator, which is called unwrapped and frozen.

        Real images pass it apart, for they need no gradient, and only where the loss compares with them; weights
        under spectral norm are those of one call.
        """
        with frozen(self.trainable), parametrize.cached(), self.accelerator.autocast():
            real = fake = self.logits(self.discriminator, images_fake, batch)
            if self.is_relativistic:
                with torch.no_grad():
                    real = self.logits(self.discriminator, images_real, batch)
        return self.loss_generator(real, fake).mean()

    def logits(
        self, discriminator: nn.Module, images: Tensor, batch: Batch, full_precision: bool = False
    ) -> Tensor:
        """Return logits of real images, generated ones or both; all have the classes of the real ones."""
        labels = {}
        if self.is_conditional:
            assert batch.labels is not None  # checked when the networks are built
            labels["labels"] = batch.labels.repeat(len(images) // len(batch.labels))
        logits: Tensor = discriminator(images, full_precision=full_precision, **labels)
        return logits.float()

    def confidence(self, real: Tensor, fake: Tensor) -> Logs:
        """Return the mean sign of real logits and the mean size of all.

        RpGAN leaves the mean of logits open, so a real logit is measured from the one it is paired with.
        """
        if self.is_relativistic:
            real, fake = real - fake, fake - real
        size = torch.maximum(real.abs().mean(), fake.abs().mean())
        return {"sign_real": real.sign().mean(), "size_logits": size}


def accumulate(
    accelerator: Accelerator,
    prepared: nn.Module,
    optimizer: AcceleratedOptimizer,
    parts: list[Batch],
    forward: Callable[[Batch], tuple[Tensor, Logs]],
) -> tuple[Tensor, Logs]:
    """Compute the gradients of the mean loss over micro-batches; processes exchange them in the last.

    `forward` returns loss and values to log of a micro-batch; their means are returned, without gradients.
    """
    optimizer.zero_grad()
    rows = []
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        with nullcontext() if is_last else accelerator.no_sync(prepared):
            loss, logs = forward(part)
            accelerator.backward(loss / len(parts))
        rows.append({"loss": loss.detach()} | {k: v.detach() for k, v in logs.items()})
    means = {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
    return means.pop("loss"), means


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Compute no gradients of trainable parameters within a block."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
