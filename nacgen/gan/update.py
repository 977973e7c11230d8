"""The update of adversarial training: losses, R1 and R2, augmentation, accumulation, EMA."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from einops import rearrange
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.errors import ConfigurationError
from nacgen.functional.gan import ADVERSARIAL_LOSSES, squared_gradient_norm
from nacgen.gan.adaptive import AdaptiveAugmentation
from nacgen.models.gan import Generator
from nacgen.training.monitors import DivergenceMonitor, LastValues
from nacgen.training.update import Schedule, take_step

Augmentation = Callable[[Tensor, Batch, str], Tensor]
Logs = dict[str, Tensor]


class GANUpdate:
    """One step of the discriminator, and after every few of them one of the generator.

    A step may accumulate gradients over micro-batches, of one network at a time: all of the discriminator's,
    its step, then all of the generator's, through a discriminator that is frozen meanwhile.

    Args:
        accelerator: Prepared for this run.
        generator: To be trained.
        discriminator: To be trained; `discriminator(images, full_precision=...)` gives logits of each image
            alone. With a generator that has classes it takes `labels`, too.
        generator_optimizer: Over the generator's parameters.
        discriminator_optimizer: Over the discriminator's trainable parameters.
        batch_size: Images in a step over all processes.
        loss: A name of `ADVERSARIAL_LOSSES`.
        penalty_weight: Gamma of R1 and R2 by images seen; 0 for none.
        penalty_every: Steps between two penalties, whose weight is multiplied by it.
        penalize_fake: Whether there is R2 beside R1.
        ema_half_life: Of the averaged generator, in images.
        augment: Applied to what the discriminator sees, `(images, batch, purpose)`.
        adaptive: Applied after it, and adapted.
        discriminator_steps: For each of the generator.
        micro_batches: Parts in which a process's share of a batch passes the networks.
        watch: Looks at the size of logits.

    Raises:
        ConfigurationError: The discriminator has nothing to train.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        generator: Generator,
        discriminator: nn.Module,
        generator_optimizer: torch.optim.Optimizer,
        discriminator_optimizer: torch.optim.Optimizer,
        *,
        batch_size: int,
        penalty_weight: Schedule,
        penalty_every: int,
        ema_half_life: float,
        augment: Augmentation,
        watch: DivergenceMonitor,
        loss: str = "rpgan",
        penalize_fake: bool = True,
        adaptive: AdaptiveAugmentation | None = None,
        discriminator_steps: int = 1,
        micro_batches: int = 1,
    ) -> None:
        self.accelerator = accelerator
        self.generator, self.discriminator = generator, discriminator
        self.trainable = [p for p in discriminator.parameters() if p.requires_grad]
        if not self.trainable:
            raise ConfigurationError(
                "the discriminator must have parameters that train, but all of its "
                f"{sum(p.numel() for p in discriminator.parameters())} are frozen. Give it a head that is not."
            )
        self.is_relativistic = loss == "rpgan"
        self.loss_discriminator, self.loss_generator = ADVERSARIAL_LOSSES[loss]
        self.penalty_weight, self.penalty_every = penalty_weight, penalty_every
        self.penalize_fake = penalize_fake
        self.augment, self.adaptive, self.watch = augment, adaptive, watch
        self.discriminator_steps, self.micro_batches = discriminator_steps, micro_batches
        decay = 0.5 ** (batch_size * discriminator_steps / ema_half_life)
        self.ema = AveragedModel(  # copied before preparing, which ties `forward` to the original
            generator,
            accelerator.device,
            multi_avg_fn=get_ema_multi_avg_fn(decay),
            use_buffers=True,
        ).eval()
        self.last_values = LastValues(
            "r1_penalty", "r2_penalty", "loss_generator", "gradient_norm_generator"
        ).to(accelerator.device)
        self.prepared_generator, self.prepared_discriminator, g, d = accelerator.prepare(
            generator, discriminator, generator_optimizer, discriminator_optimizer
        )
        self.modules: dict[str, nn.Module] = {
            "generator": generator,
            "discriminator": discriminator,
            "ema": self.ema,
            "last_values": self.last_values,
            "watch": watch,
        }
        if adaptive is not None:
            self.modules["augmentation"] = adaptive
        self.optimizers: dict[str, AcceleratedOptimizer] = {"generator": g, "discriminator": d}

    @property
    def averaged_generator(self) -> Generator:
        """The generator whose weights are averaged, the one to score and keep."""
        return cast(Generator, self.ema.module)

    def update(self, batch: Batch) -> Logs:
        """A step of the discriminator, and one of the generator where it is due.

        Args:
            batch: Real images.

        Returns:
            Losses, penalties, gauges and gradient norms; of those that are not due, the last ones.

        Raises:
            NonFiniteError: A loss or a gradient is NaN or infinite.
            DivergenceError: Logits have been beyond their bound for too long.
        """
        logs = self.update_discriminator(batch)
        if (batch.images_seen // batch.global_size + 1) % self.discriminator_steps == 0:
            logs |= self.update_generator(batch)
        known: Logs = self.last_values(logs)
        return known

    def update_discriminator(self, batch: Batch) -> Logs:
        """Tell real from generated images; real and generated pass in one call."""
        step, weight = (
            batch.images_seen // batch.global_size,
            self.penalty_weight(batch.images_seen),
        )
        penalized = weight > 0 and step % self.penalty_every == 0

        def forward(part: Batch) -> tuple[Tensor, Logs]:
            with torch.no_grad(), self.accelerator.autocast():
                images_fake = self.generate(self.generator, part, "discriminator")
            images = self.pair(part, images_fake, "discriminator").requires_grad_(penalized)
            logits = self.judge(self.prepared_discriminator, images, part, penalized)
            real, fake = logits.chunk(2)
            loss = self.loss_discriminator(real, fake).mean()
            logs = {"loss_discriminator": loss, "logits_real": real.mean()}
            logs |= {"logits_fake": fake.mean(), **self.gauges(real.detach(), fake.detach())}
            if penalized:
                r1, r2 = (x.mean() for x in squared_gradient_norm(logits, images).chunk(2))
                penalty = r1 + r2 if self.penalize_fake else r1
                loss = loss + weight / 2 * self.penalty_every * penalty
                logs |= {"r1_penalty": r1, "r2_penalty": r2}
            return loss, logs

        loss, logs = self.accumulate(batch, self.prepared_discriminator, "discriminator", forward)
        sign, size = self.accelerator.reduce(
            torch.stack([logs["sign_real"], logs.pop("size_logits")]), "mean"
        ).tolist()
        norm = take_step(
            loss, self.optimizers["discriminator"], self.trainable, batch, "discriminator"
        )
        self.watch.observe(size, batch)
        if self.adaptive is not None:
            self.adaptive.observe(sign, batch.global_size)
            logs["augment_probability"] = self.adaptive.probability.to(norm)
        return logs | {"gradient_norm_discriminator": norm}

    def update_generator(self, batch: Batch) -> Logs:
        """Fool the discriminator, which is called unwrapped and frozen, then average the weights."""

        def forward(part: Batch) -> tuple[Tensor, Logs]:
            images_fake = self.generate(self.prepared_generator, part, "generator")
            images = self.pair(part, images_fake, "generator")
            with self.accelerator.autocast():
                logits = self.judge(self.discriminator, images, part)
            loss = self.loss_generator(*logits.chunk(2)).mean()
            return loss, {"loss_generator": loss}

        for parameter in self.trainable:
            parameter.requires_grad_(False)
        loss, logs = self.accumulate(batch, self.prepared_generator, "generator", forward)
        norm = take_step(
            loss, self.optimizers["generator"], self.generator.parameters(), batch, "generator"
        )
        for parameter in self.trainable:
            parameter.requires_grad_(True)
        self.ema.update_parameters(self.generator)
        return logs | {"gradient_norm_generator": norm}

    def accumulate(
        self,
        batch: Batch,
        prepared: nn.Module,
        network: str,
        forward: Callable[[Batch], tuple[Tensor, Logs]],
    ) -> tuple[Tensor, Logs]:
        """Gradients of the mean loss over micro-batches; processes exchange them in the last.

        Args:
            batch: This process's share.
            prepared: The network that trains.
            network: Its name among the optimizers.
            forward: Loss and gauges of a micro-batch.

        Returns:
            Loss and gauges, averaged over micro-batches.
        """
        self.optimizers[network].zero_grad()
        parts, rows = batch.split(self.micro_batches), []
        for i, part in enumerate(parts):
            is_last = i == len(parts) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(prepared):
                loss, logs = forward(part)
                self.accelerator.backward(loss / len(parts))
            rows.append({"loss": loss.detach()} | {k: v.detach() for k, v in logs.items()})
        means = {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
        return means.pop("loss"), means

    def gauges(self, real: Tensor, fake: Tensor) -> Logs:
        """How sure the discriminator is of its training images, and how large its logits are.

        RpGAN leaves the mean of logits open: there, a real image's logit is measured from that of the generated
        image it is paired with.
        """
        if self.is_relativistic:
            real, fake = real - fake, fake - real
        size = torch.maximum(real.abs().mean(), fake.abs().mean())
        return {"sign_real": real.sign().mean(), "size_logits": size}

    def generate(self, generator: nn.Module, batch: Batch, purpose: str) -> Tensor:
        """Images for this share's latents, with the classes of the real images they are paired with."""
        z = self.latents(batch, purpose)
        labels = () if self.generator.num_classes is None else (batch.labels,)
        images: Tensor = generator(z, *labels)
        return images.float()

    def judge(
        self, discriminator: nn.Module, images: Tensor, batch: Batch, full_precision: bool = False
    ) -> Tensor:
        """Logits of real above generated images."""
        labels = {}
        if self.generator.num_classes is not None:
            assert batch.labels is not None
            labels["labels"] = batch.labels.repeat(2)
        logits: Tensor = discriminator(images, full_precision=full_precision, **labels)
        return logits.float()

    def latents(self, batch: Batch, purpose: str) -> Tensor:
        """This process's share of the step's latents, `(b, z)`."""
        draw = batch.generator(f"latents_{purpose}")
        return batch.local(
            torch.randn(batch.global_size, self.generator.latent_dim, generator=draw)
        )

    def pair(self, batch: Batch, images_fake: Tensor, purpose: str) -> Tensor:
        """Real above generated images, `(2b, 3, h, w)`, each augmented."""
        pair = []
        for kind, images in (("real", to_float(batch.images)), ("fake", images_fake)):
            seen = self.augment(images, batch, f"augment_{kind}_{purpose}")
            if self.adaptive is not None:
                seen = self.adaptive(seen, batch, f"adaptive_{kind}_{purpose}")
            pair.append(seen)
        return rearrange(pair, "v b c h w -> (v b) c h w")
