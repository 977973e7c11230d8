"""The update of a variational autoencoder, with a perceptual loss and an adversary where they are wanted.

Source:
    Larsen et al. 2016, arXiv:1512.09300 (VAE and GAN together); Esser, Rombach & Ommer 2021, arXiv:2012.09841
    (the adaptive weight, and a discriminator that joins later).
"""

from functools import partial

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import reduce
from torch import Tensor, nn

from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.errors import NonFiniteError
from nacgen.functional.vae import free_bits, gaussian_kl_by_axis
from nacgen.models.vae import VAE
from nacgen.training.adversarial import DiscriminatorStep
from nacgen.training.monitors import DivergenceMonitor
from nacgen.training.update import descend
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
        """
        if batch.images_seen < self.acts_from:
            return torch.zeros_like(reconstruction_loss), {}
        loss = self.step.generator_loss(images, reconstructions, batch)
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


class VAEUpdate:
    """One step on the negative evidence lower bound, sums over pixels and latents, means over images.

    `perceptual` returns distances `(b,)` of images and reconstructions, `(b, 3, h, w)` each, and is not trained.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        vae: VAE,
        optimizer: torch.optim.Optimizer,
        config: VAEConfig,
        perceptual: nn.Module | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        self.accelerator, self.vae, self.config = accelerator, vae, config
        self.perceptual, self.adversary = perceptual, adversary
        self.trainable = [p for p in vae.parameters() if p.requires_grad]
        self.average = partial(accelerator.reduce, reduction="mean")
        self.prepared, prepared_optimizer = accelerator.prepare(vae, optimizer)
        self.modules: dict[str, nn.Module] = {"vae": vae}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"vae": prepared_optimizer}
        if adversary is not None:
            self.modules["discriminator"] = adversary.discriminator
            self.modules["watch"] = adversary.step.monitor
            self.optimizers["discriminator"] = adversary.step.optimizer

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step of the autoencoder, and of an adversary; return losses, in nats, and gradient norms."""
        objective, likelihood = self.config.objective, self.vae.decoder.likelihood
        images = to_float(batch.images)
        if not images.isfinite().all():  # the likelihood would refuse them as out of range
            raise NonFiniteError(
                f"images must be finite, but at {batch.images_seen} images seen some are not. Look at the data."
            )
        # The bound: rate and distortion.
        mean, log_variance, outputs = self.prepared(images, self.noise(batch))
        kl = gaussian_kl_by_axis(mean, log_variance)
        rate, distortion = reduce(kl, "b z -> b", "sum").mean(), -likelihood(images, outputs).mean()
        beta = self.beta(batch.images_seen)
        cost = free_bits(kl, self.average(kl.detach().mean(0)), objective.free_bits).mean()
        logs = {
            "elbo": -(rate + distortion),
            "rate": rate,
            "distortion": distortion,
            "beta": torch.tensor(beta, device=rate.device),
        }
        # The perceptual loss, in nats of all of an image's numbers.
        reconstructions, reconstruction_loss = likelihood.mean(outputs), distortion
        if self.perceptual is not None:
            distance = self.perceptual(images, reconstructions).mean()
            weight = objective.perceptual_weight * images[0].numel()
            reconstruction_loss = reconstruction_loss + weight * distance
            logs["perceptual_distance"] = distance
        loss = reconstruction_loss + beta * cost
        # The adversarial loss.
        if self.adversary is not None:
            last_layer = self.vae.decoder.to_outputs.weight
            adversarial, more = self.adversary.loss(
                batch, images, reconstructions, reconstruction_loss, last_layer
            )
            loss, logs = loss + adversarial, logs | more
        # One step of the autoencoder, one of the discriminator.
        logs["loss"] = loss
        logs["gradient_norm"] = descend(
            self.accelerator, loss, self.optimizers["vae"], self.trainable, batch, "autoencoder's"
        )
        likelihood.refit(images, outputs.detach(), self.average)
        if self.adversary is not None:
            logs |= self.adversary.update(batch, images, reconstructions.detach())
        return {name: value.detach() for name, value in logs.items()}

    def beta(self, images_seen: int) -> float:
        """Return the divergence's weight, which rises linearly from zero (Bowman et al. 2016, 1511.06349)."""
        warmup = self.config.warmup_images
        return self.config.objective.beta * (min(1.0, images_seen / warmup) if warmup else 1.0)

    def noise(self, batch: Batch) -> Tensor:
        """Draw this process's posterior noise of a step, `(b, z)`."""
        draw = batch.generator("posterior")
        width = self.vae.decoder.latent_dim
        return batch.local(torch.randn(batch.global_size, width, generator=draw))
