"""A discriminator that judges a VAE's reconstructions, and the weight of its judgement.

Source:
    Larsen et al. 2016, arXiv:1512.09300 (VAE and GAN together); Esser, Rombach & Ommer 2021, arXiv:2012.09841
    (the adaptive weight, and a discriminator that joins later).
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacgen.data.stream import Batch
from nacgen.functional.gan import (
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    squared_gradient_norm,
)
from nacgen.training.monitors import DivergenceMonitor
from nacgen.training.update import descend

EPSILON, LARGEST_WEIGHT = 1e-4, 1e4  # the paper's


class Adversary:
    """Tells images from their reconstructions, each pair of them together.

    Args:
        accelerator: Prepared for this run.
        discriminator: To be trained; a function of each image alone.
        optimizer: Over its trainable parameters.
        weight: Of the adversarial loss, relative to the gradients' balance at the decoder's last layer.
        start: Images seen from which the discriminator trains.
        felt_from: Images seen from which the decoder feels it.
        penalty_weight: Gamma of R1 and R2.
        watch: Looks at the size of logits.
        penalty_every: Steps between two penalties, whose weight is multiplied by it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        discriminator: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        weight: float,
        start: int,
        acts_from: int,
        penalty_weight: float,
        watch: DivergenceMonitor,
        penalty_every: int = 4,
    ) -> None:
        self.accelerator, self.discriminator = accelerator, discriminator
        self.trainable = [p for p in discriminator.parameters() if p.requires_grad]
        self.weight, self.start, self.acts_from = weight, start, acts_from
        self.penalty_weight, self.penalty_every, self.watch = penalty_weight, penalty_every, watch
        self.prepared, self.optimizer = accelerator.prepare(discriminator, optimizer)

    def loss(
        self,
        batch: Batch,
        images: Tensor,
        reconstructions: Tensor,
        reconstruction_loss: Tensor,
        last_layer: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the decoder has to add to its loss; the discriminator is left as it is.

        Args:
            batch: Gives the position.
            images: `(b, 3, h, w)` in [-1, 1].
            reconstructions: Of them, with gradient.
            reconstruction_loss: Scalar that the adversarial loss is balanced with.
            last_layer: Parameter at which the two gradients' norms are compared.

        Returns:
            A scalar, and values to log.
        """
        if batch.images_seen < self.acts_from:
            return torch.zeros_like(reconstruction_loss), {}
        for parameter in self.trainable:
            parameter.requires_grad_(False)
        with self.accelerator.autocast():
            logits = self.discriminator(torch.cat([images, reconstructions])).float()
        for parameter in self.trainable:
            parameter.requires_grad_(True)
        loss = relativistic_generator_loss(*logits.chunk(2)).mean()
        gradients = [
            torch.autograd.grad(part, last_layer, retain_graph=True)[0].flatten()
            for part in (reconstruction_loss, loss)
        ]
        # of the gradients' means over processes, so that all of them take one weight
        ours, theirs = self.accelerator.reduce(torch.stack(gradients), "mean").norm(dim=1)
        adaptive = (ours / (theirs + EPSILON)).clamp(max=LARGEST_WEIGHT)
        logs = {"loss_adversarial": loss, "adaptive_weight": adaptive}
        return self.weight * adaptive * loss, logs

    def update(self, batch: Batch, images: Tensor, reconstructions: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator, once its time has come.

        Args:
            batch: Gives the position.
            images: `(b, 3, h, w)` in [-1, 1].
            reconstructions: Of them, without gradient.

        Returns:
            Losses, penalties, mean logits and the gradient's norm.

        Raises:
            NonFiniteError: Loss or gradient is not finite.
            DivergenceError: Logits have been beyond their bound for too long.
        """
        if batch.images_seen < self.start:
            return {}
        pair = torch.cat([images, reconstructions])
        is_penalized = batch.images_seen // batch.global_size % self.penalty_every == 0
        pair.requires_grad_(is_penalized)
        logits = self.prepared(pair, full_precision=is_penalized).float()
        logits_real, logits_fake = logits.chunk(2)
        loss = relativistic_discriminator_loss(logits_real, logits_fake).mean()
        logs = {
            "loss_discriminator": loss,
            "logits_real": logits_real.mean(),
            "logits_fake": logits_fake.mean(),
        }
        if is_penalized:
            r1, r2 = squared_gradient_norm(logits, pair).chunk(2)
            loss = loss + self.penalty_weight / 2 * self.penalty_every * (r1.mean() + r2.mean())
            logs |= {"r1_penalty": r1.mean(), "r2_penalty": r2.mean()}
        norm = descend(
            self.accelerator, loss, self.optimizer, self.trainable, batch, "discriminator's"
        )
        size = self.accelerator.reduce(logits.detach().abs().mean(), "mean")
        self.watch.observe(float(size), batch)
        return logs | {"gradient_norm_discriminator": norm}
