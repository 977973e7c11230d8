"""The update of adversarial training: RpGAN with R1 and R2, EMA and DiffAugment."""

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import rearrange
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nacgen.data.augment import diff_augment, to_float
from nacgen.data.stream import Batch
from nacgen.functional.gan import (
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    squared_gradient_norm,
)
from nacgen.models.discriminator import Discriminator
from nacgen.models.gan import Generator
from nacgen.training.update import descend


class GANUpdate:
    """One step of the discriminator, then one of the generator, on the same real images.

    Args:
        accelerator: Prepared for this run.
        generator: To be trained.
        discriminator: To be trained; a function of each image alone.
        generator_optimizer: Over the generator's parameters.
        discriminator_optimizer: Over the discriminator's trainable parameters.
        batch_size: Images in a step over all processes.
        penalty_weight: Gamma of R1 and R2.
        penalty_every: Steps between two penalties, whose weight is multiplied by it.
        ema_half_life: Of the averaged generator, in images.
        translation: Of DiffAugment, largest shift as a share of the size; 0 for none.
        cutout: Of DiffAugment, side of the blank square as a share of the size; 0 for none.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        generator: Generator,
        discriminator: Discriminator,
        generator_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
        penalty_weight: float,
        penalty_every: int,
        ema_half_life: float,
        translation: float,
        cutout: float,
    ) -> None:
        self.accelerator = accelerator
        self.generator, self.discriminator = generator, discriminator
        self.trainable = [p for p in discriminator.parameters() if p.requires_grad]
        self.penalty_weight, self.penalty_every = penalty_weight, penalty_every
        self.translation, self.cutout = translation, cutout
        decay = 0.5 ** (batch_size / ema_half_life)
        self.ema = AveragedModel(  # copied before preparing, which ties `forward` to the original
            generator,
            accelerator.device,
            multi_avg_fn=get_ema_multi_avg_fn(decay),
            use_buffers=True,
        )
        self.prepared_generator, self.prepared_discriminator, g, d = accelerator.prepare(
            generator, discriminator, generator_optimizer, discriminator_optimizer
        )
        self.modules = {"generator": generator, "discriminator": discriminator, "ema": self.ema}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"generator": g, "discriminator": d}

    @property
    def averaged_generator(self) -> Generator:
        """The generator whose weights are averaged, the one to score and keep."""
        assert isinstance(self.ema.module, Generator)
        return self.ema.module

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of each network.

        Args:
            batch: Real images.

        Returns:
            Losses, penalties, mean logits and gradient norms.
        """
        images_real = to_float(batch.images)
        return self.update_discriminator(batch, images_real) | self.update_generator(
            batch, images_real
        )

    def update_discriminator(self, batch: Batch, images_real: Tensor) -> dict[str, Tensor]:
        """Tell real from generated images; real and generated pass in one call."""
        with torch.no_grad(), self.accelerator.autocast():
            images_fake = self.generator(self.latents(batch, "discriminator")).float()
        images = self.pair(batch, images_real, images_fake, "discriminator")
        step = batch.images_seen // batch.global_size
        penalised = step % self.penalty_every == 0
        images.requires_grad_(penalised)
        logits = self.prepared_discriminator(images, full_precision=penalised).float()
        logits_real, logits_fake = logits.chunk(2)
        loss = relativistic_discriminator_loss(logits_real, logits_fake).mean()
        logs = {
            "loss_discriminator": loss.detach(),
            "logits_real": logits_real.detach().mean(),
            "logits_fake": logits_fake.detach().mean(),
        }
        if penalised:
            r1, r2 = squared_gradient_norm(logits, images).chunk(2)
            weight = self.penalty_weight / 2 * self.penalty_every
            loss = loss + weight * (r1.mean() + r2.mean())
            logs |= {"r1_penalty": r1.detach().mean(), "r2_penalty": r2.detach().mean()}
        optimizer = self.optimizers["discriminator"]
        norm = descend(self.accelerator, loss, optimizer, self.trainable, batch, "discriminator")
        return logs | {"gradient_norm_discriminator": norm}

    def update_generator(self, batch: Batch, images_real: Tensor) -> dict[str, Tensor]:
        """Fool the discriminator, which is called unwrapped and frozen, then average the weights."""
        images_fake = self.prepared_generator(self.latents(batch, "generator")).float()
        images = self.pair(batch, images_real, images_fake, "generator")
        for parameter in self.trainable:
            parameter.requires_grad_(False)
        with self.accelerator.autocast():
            logits_real, logits_fake = self.discriminator(images).float().chunk(2)
        loss = relativistic_generator_loss(logits_real, logits_fake).mean()
        optimizer = self.optimizers["generator"]
        norm = descend(
            self.accelerator, loss, optimizer, self.generator.parameters(), batch, "generator"
        )
        for parameter in self.trainable:
            parameter.requires_grad_(True)
        self.ema.update_parameters(self.generator)
        return {"loss_generator": loss.detach(), "gradient_norm_generator": norm}

    def latents(self, batch: Batch, purpose: str) -> Tensor:
        """This process's share of the step's latents, `(b, z)`."""
        draw = batch.generator(f"latents_{purpose}")
        return batch.share(
            torch.randn(batch.global_size, self.generator.latent_dim, generator=draw)
        )

    def pair(self, batch: Batch, real: Tensor, fake: Tensor, purpose: str) -> Tensor:
        """Real above generated images, `(2b, 3, h, w)`, each augmented."""
        pair = [
            diff_augment(images, batch, f"augment_{kind}_{purpose}", self.translation, self.cutout)
            for kind, images in (("real", real), ("fake", fake))
        ]
        return rearrange(pair, "v b c h w -> (v b) c h w")
