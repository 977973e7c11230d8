"""The update of adversarial training: losses, augmentation, accumulation, averaged weights."""

from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import rearrange
from torch import Tensor, nn

from nacgen.data.augment import Augmentation, augment_own, diff_augment
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.gan.adaptive import AdaptiveAugmentation
from nacgen.gan.options import GANConfig
from nacgen.models.gan import Generator
from nacgen.training.adversarial import DiscriminatorStep, Logs, accumulate
from nacgen.training.monitors import DivergenceMonitor, LastValues
from nacgen.training.update import cosine_between, moving_average, take_step


class GANUpdate:
    """One step of the discriminator, and after every few of them one of the generator.

    A step may accumulate gradients over micro-batches, of one network at a time: all of the discriminator's, its
    step, then all of the generator's, through a discriminator that is frozen meanwhile.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        generator: Generator,
        discriminator: nn.Module,
        generator_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        config: GANConfig,
        own_augmentation: Augmentation | None = None,
    ) -> None:
        self.accelerator, self.config = accelerator, config
        self.own_augmentation = own_augmentation
        self.generator, self.discriminator = generator, discriminator
        optim = config.optim
        # Copied before the generator is prepared, which ties `forward` to the original.
        images_between = config.batch_size * optim.discriminator_steps
        self.ema = moving_average(
            generator, images_between, optim.ema_half_life, accelerator.device
        )
        first, last = optim.penalty_weight, optim.final_penalty_weight
        last = first if last is None else last
        self.discriminator_step = DiscriminatorStep(
            accelerator,
            discriminator,
            discriminator_optimizer,
            DivergenceMonitor(config.run.checkpoint_every),
            loss=optim.loss,
            penalty_weight=cosine_between(first, last, config.total_images),
            micro_batches=optim.micro_batches,
            is_conditional=generator.num_classes is not None,
        )
        self.adaptive = AdaptiveAugmentation() if config.augment.adaptive else None
        self.last_values = LastValues(
            accelerator, "r1_penalty", "r2_penalty", "loss_generator", "gradient_norm_generator"
        ).to(accelerator.device)
        self.prepared_generator, optimizer = accelerator.prepare(generator, generator_optimizer)
        self.modules: dict[str, nn.Module] = {
            "generator": generator,
            "discriminator": discriminator,
            "ema": self.ema,
            "last_values": self.last_values,
            "watch": self.discriminator_step.monitor,
        }
        if self.adaptive is not None:
            self.modules["augmentation"] = self.adaptive
        self.optimizers: dict[str, AcceleratedOptimizer] = {
            "generator": optimizer,
            "discriminator": self.discriminator_step.optimizer,
        }

    @property
    def averaged_generator(self) -> Generator:
        """The generator with averaged weights, which is scored and kept."""
        return cast(Generator, self.ema.module)

    def update(self, batch: Batch) -> Logs:
        """Take a step of the discriminator, and one of the generator where it is due; return last known values."""
        logs = self.update_discriminator(batch)
        step = batch.images_seen // batch.global_size
        if (step + 1) % self.config.optim.discriminator_steps == 0:
            logs |= self.update_generator(batch)
        known: Logs = self.last_values(logs)
        return known

    def update_discriminator(self, batch: Batch) -> Logs:
        """Tell real from generated images; both pass the discriminator in one call."""

        def pair(part: Batch) -> Tensor:
            with torch.no_grad(), self.accelerator.autocast():
                images_fake = self.generate(self.generator, part, "discriminator")
            return self.pair(part, images_fake, "discriminator")

        logs, sign = self.discriminator_step(batch, pair)
        if self.adaptive is not None:
            self.adaptive.observe(sign, batch.global_size)
            probability = self.adaptive.probability
            logs["augment_probability"] = probability.to(batch.images.device, torch.float32)
        return logs

    def update_generator(self, batch: Batch) -> Logs:
        """Fool the discriminator, which is called unwrapped and frozen, then average the weights."""
        step, optimizer = self.discriminator_step, self.optimizers["generator"]

        def forward(part: Batch) -> tuple[Tensor, Logs]:
            images_fake = self.generate(self.prepared_generator, part, "generator")
            real, fake = self.pair(part, images_fake, "generator").chunk(2)
            loss = step.generator_loss(real, fake, part)
            return loss, {"loss_generator": loss}

        parts = batch.split(step.micro_batches)
        loss, logs = accumulate(
            self.accelerator, self.prepared_generator, optimizer, parts, forward
        )
        norm = take_step(loss, optimizer, self.generator.parameters(), batch, "generator's")
        self.ema.update_parameters(self.generator)
        return logs | {"gradient_norm_generator": norm}

    def generate(self, generator: nn.Module, batch: Batch, purpose: str) -> Tensor:
        """Generate images with the classes of the real images that they are paired with."""
        z = self.latents(batch, purpose)
        labels = () if self.generator.num_classes is None else (batch.labels,)
        images: Tensor = generator(z, *labels)
        return images.float()

    def latents(self, batch: Batch, purpose: str) -> Tensor:
        """Draw this process's latents of a step, `(b, z)`."""
        draw, width = batch.generator(f"latents_{purpose}"), self.generator.latent_dim
        return batch.local(torch.randn(batch.global_size, width, generator=draw))

    def pair(self, batch: Batch, images_fake: Tensor, purpose: str) -> Tensor:
        """Return real above generated images, `(2b, 3, h, w)`, each augmented."""
        real = self.augment(to_float(batch.images), batch, f"real_{purpose}")
        fake = self.augment(images_fake, batch, f"fake_{purpose}")
        return rearrange([real, fake], "v b c h w -> (v b) c h w")

    def augment(self, images: Tensor, batch: Batch, purpose: str) -> Tensor:
        """Augment images as the discriminator is to see them."""
        options = self.config.augment
        chosen = (options.translation, options.cutout, options.color)
        images = diff_augment(images, batch, f"augment_{purpose}", *chosen)
        if self.adaptive is not None:
            images = self.adaptive(images, batch, f"adaptive_{purpose}")
        if self.own_augmentation is not None:
            images = augment_own(self.own_augmentation, images, batch, f"own_{purpose}")
        return images
