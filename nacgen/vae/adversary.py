"""A discriminator of a VAE's reconstructions, and the weight of its loss.

Source:
    Larsen et al. 2016, arXiv:1512.09300 (VAE and GAN together); Esser, Rombach & Ommer 2021, arXiv:2012.09841
    (the adaptive weight, and a discriminator that joins later).
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacgen.data.stream import Batch
from nacgen.functional.gan import relativistic_generator_loss
from nacgen.training.adversarial import DiscriminatorStep, frozen
from nacgen.training.monitors import DivergenceMonitor
from nacgen.vae.options import VAEConfig

EPSILON, LARGEST_WEIGHT = 1e-4, 1e4  # the paper's
START, ACTS_FROM = 0.35, 0.5  # parts of the run after which it trains, and acts on the decoder
PENALTY_WEIGHT = 0.3  # gamma of R1 and R2


class Adversary:
    """A discriminator that tells images from their reconstructions, each pair of them together."""

    def __init__(
        self,
        accelerator: Accelerator,
        discriminator: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: VAEConfig,
    ) -> None:
        self.accelerator, self.discriminator = accelerator, discriminator
        self.weight, total = config.discriminator.weight, config.total_images
        self.start, self.acts_from = int(START * total), int(ACTS_FROM * total)
        self.step = DiscriminatorStep(
            accelerator,
            discriminator,
            optimizer,
            DivergenceMonitor(config.run.checkpoint_every),
            penalty_weight=lambda images_seen: PENALTY_WEIGHT,
        )

    def loss(
        self,
        batch: Batch,
        images: Tensor,
        reconstructions: Tensor,
        reconstruction_loss: Tensor,
        last_layer: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the decoder's adversarial loss, a scalar, and values to log.

        It is balanced with the reconstruction loss by the norms of both gradients at the decoder's last layer.
        The discriminator is left as it is.
        """
        if batch.images_seen < self.acts_from:
            return torch.zeros_like(reconstruction_loss), {}
        with frozen(self.step.trainable), self.accelerator.autocast():
            logits = self.discriminator(torch.cat([images, reconstructions])).float()
        loss = relativistic_generator_loss(*logits.chunk(2)).mean()
        gradients = [
            torch.autograd.grad(part, last_layer, retain_graph=True)[0].flatten()
            for part in (reconstruction_loss, loss)
        ]
        # Norms of the gradients' means over processes, so that all processes take one weight.
        ours, theirs = self.accelerator.reduce(torch.stack(gradients), "mean").norm(dim=1)
        adaptive = (ours / (theirs + EPSILON)).clamp(max=LARGEST_WEIGHT)
        logs = {"loss_adversarial": loss, "adaptive_weight": adaptive}
        return self.weight * adaptive * loss, logs

    def update(self, batch: Batch, images: Tensor, reconstructions: Tensor) -> dict[str, Tensor]:
        """Take one step of the discriminator and return values to log; nothing before its start."""
        if batch.images_seen < self.start:
            return {}
        logs, _ = self.step(batch, lambda part: torch.cat([images, reconstructions]))
        logs.pop("sign_real")
        return logs
