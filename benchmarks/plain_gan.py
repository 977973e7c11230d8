"""The GAN step as one would write it plainly, with the networks, losses, penalties and augmentation of ours."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nacgen.data.augment import diff_augment
from nacgen.data.stream import Batch
from nacgen.gan.update import GANUpdate


class PlainGAN:
    """The GAN step written down plainly: one call for real and generated images, Adam, an average in a loop."""

    def __init__(self, update: GANUpdate) -> None:
        self.update, self.config = update, update.config
        self.generator = copy.deepcopy(update.generator)
        self.discriminator = copy.deepcopy(update.discriminator)
        self.average = copy.deepcopy(update.generator).requires_grad_(False)
        self.optimizers = [
            torch.optim.Adam(groups, betas=(0.0, self.config.optim.beta2))
            for groups in (self.groups(update, "generator"), self.groups(update, "discriminator"))
        ]

    def groups(self, update: GANUpdate, name: str) -> list[dict[str, Any]]:
        """The parameters of the copy in the groups of the original, with their rates."""
        ours, theirs = update.modules[name], getattr(self, name)
        copies = dict(zip(ours.parameters(), theirs.parameters(), strict=True))
        groups = update.optimizers[name].param_groups
        return [{"params": [copies[p] for p in g["params"]], "lr": g["lr"]} for g in groups]

    def step(self, batch: Batch) -> None:
        """A step of the discriminator and one of the generator, on the draws of ours."""
        options, number = self.config.optim, batch.images_seen // batch.global_size
        augment = self.config.augment
        by_generator, by_discriminator = self.optimizers

        def pair(purpose: str) -> Tensor:
            draw = batch.generator(f"latents_{purpose}")
            z = torch.randn(batch.global_size, self.generator.latent_dim, generator=draw)
            images = {"real": batch.images.float() / 127.5 - 1, "fake": self.generator(z)}
            return torch.cat(
                [
                    diff_augment(
                        x, batch, f"augment_{kind}_{purpose}", augment.translation, augment.cutout
                    )
                    for kind, x in images.items()
                ]
            )

        with torch.no_grad():
            images = pair("discriminator")
        is_penalized = number % 4 == 0
        logits = self.discriminator(images.requires_grad_(is_penalized))
        real, fake = logits.chunk(2)
        loss = F.softplus(fake - real).mean()
        if is_penalized:
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean() * 2
            loss = loss + options.penalty_weight / 2 * 4 * penalty
        by_discriminator.zero_grad()
        loss.backward()
        by_discriminator.step()
        real, fake = self.discriminator(pair("generator")).chunk(2)
        by_generator.zero_grad()
        F.softplus(real - fake).mean().backward()
        by_generator.step()
        decay = 0.5 ** (batch.global_size / options.ema_half_life) if number else 0.0
        for mean, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.mul_(decay).add_(new.detach(), alpha=1 - decay)
