"""The update of a variational autoencoder, with a perceptual loss and an adversary where they are wanted."""

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
from nacgen.training.update import Schedule, descend
from nacgen.vae.adversary import Adversary


def warm_up(beta: float, warmup_images: float) -> Schedule:
    """The divergence's weight, rising linearly from zero.

    Args:
        beta: In the end.
        warmup_images: Length of the rise; 0 for none.

    Returns:
        The weight as a function of the images seen before a step.

    Source:
        Bowman et al. 2016, arXiv:1511.06349.
    """
    return lambda images_seen: (
        beta * min(1.0, images_seen / warmup_images if warmup_images else 1.0)
    )


class VAEUpdate:
    """One step on the negative evidence lower bound, sums over pixels and latents, means over images.

    Args:
        accelerator: Prepared for this run.
        vae: To be trained.
        optimizer: Over its trainable parameters.
        beta: Weight of the divergence, by images seen.
        free_bits: Nats that each latent axis carries without a cost.
        perceptual: Images and reconstructions, `(b, 3, h, w)` each, to distances `(b,)`; not trained.
        perceptual_weight: Nats for each of an image's numbers and unit of distance.
        adversary: Judges reconstructions, see `nacgen.vae.adversary`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        vae: VAE,
        optimizer: torch.optim.Optimizer,
        *,
        beta: Schedule,
        free_bits: float = 0.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        adversary: Adversary | None = None,
    ) -> None:
        self.accelerator, self.vae, self.adversary = accelerator, vae, adversary
        self.beta, self.free_bits = beta, free_bits
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.trainable = [p for p in vae.parameters() if p.requires_grad]
        self.average = partial(accelerator.reduce, reduction="mean")
        self.prepared, prepared_optimizer = accelerator.prepare(vae, optimizer)
        self.modules: dict[str, nn.Module] = {"vae": vae}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"vae": prepared_optimizer}
        if adversary is not None:
            self.modules |= {"discriminator": adversary.discriminator, "watch": adversary.watch}
            self.optimizers["discriminator"] = adversary.optimizer

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the autoencoder, and where there is an adversary one of its own.

        Args:
            batch: Images.

        Returns:
            Loss, rate, distortion, the bound and their like in nats, and gradient norms.

        Raises:
            NonFiniteError: Images, a loss or a gradient are not finite; nothing of that network is changed.
            DivergenceError: The adversary's logits have been beyond their bound for too long.
        """
        images, likelihood = to_float(batch.images), self.vae.decoder.likelihood
        if not images.isfinite().all():  # the likelihood would refuse them as out of range
            raise NonFiniteError(
                f"images must be finite, but at {batch.images_seen} images seen some numbers of the batch are "
                "not. Look at the data."
            )
        mean, log_variance, outputs = self.prepared(images, self.noise(batch))
        kl = gaussian_kl_by_axis(mean, log_variance)
        rate, distortion = reduce(kl, "b z -> b", "sum").mean(), -likelihood(images, outputs).mean()
        beta = self.beta(batch.images_seen)
        cost = free_bits(kl, self.average(kl.detach().mean(0)), self.free_bits).mean()
        logs = {
            "elbo": -(rate + distortion),
            "rate": rate,
            "distortion": distortion,
            "beta": torch.tensor(beta, device=rate.device),
        }
        reconstructions, reconstruction_loss = likelihood.mean(outputs), distortion
        if self.perceptual is not None:
            distance = self.perceptual(images, reconstructions).mean()
            weight = self.perceptual_weight * images[0].numel()
            reconstruction_loss = reconstruction_loss + weight * distance
            logs["perceptual_distance"] = distance
        loss = reconstruction_loss + beta * cost
        if self.adversary is not None:
            last_layer = self.vae.decoder.to_outputs.weight
            penalty, more = self.adversary.loss(
                batch, images, reconstructions, reconstruction_loss, last_layer
            )
            loss, logs = loss + penalty, logs | more
        logs["loss"] = loss
        optimizer = self.optimizers["vae"]
        logs["gradient_norm"] = descend(
            self.accelerator, loss, optimizer, self.trainable, batch, "autoencoder's"
        )
        likelihood.refit(images, outputs.detach(), self.average)
        if self.adversary is not None:
            logs |= self.adversary.update(batch, images, reconstructions.detach())
        return {name: value.detach() for name, value in logs.items()}

    def noise(self, batch: Batch) -> Tensor:
        """This process's share of the step's posterior noise, `(b, z)`."""
        draw = batch.generator("posterior")
        width = self.vae.decoder.latent_dim
        return batch.local(torch.randn(batch.global_size, width, generator=draw))
