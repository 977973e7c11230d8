"""A GAN small enough for tests, the same on every process."""

from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream
from nacgen.gan.options import AugmentConfig, GANConfig, OptimConfig
from nacgen.gan.update import GANUpdate
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator
from nacgen.system.randomness import seeded
from nacgen.training.config import RunConfig
from nacgen.transplant.discriminator import into_discriminator

PLAIN, CUTOUT = AugmentConfig(translation=0.0), AugmentConfig(translation=0.125, cutout=0.5)


def config(
    batch_size: int = 8, augment: AugmentConfig = CUTOUT, checkpoint_every: int = 64, **optim: Any
) -> GANConfig:
    return GANConfig(
        total_images=8 * batch_size,
        batch_size=batch_size,
        optim=OptimConfig(**({"ema_half_life": 32} | optim)),
        augment=augment,
        run=RunConfig(checkpoint_every=checkpoint_every, tracker="none"),
    )


def build(
    batch_size: int = 8,
    generator_rate: float = 1e-3,
    discriminator_rate: float = 1e-3,
    mode: Any = "init",
    **options: Any,
) -> tuple[GANUpdate, ImageStream, Accelerator]:
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    images = load_dataset("digits")
    with seeded(0, "test"):
        generator, encoder = Generator(16, 8, (16, 8, 8)), NACEncoder(code_dim=8)
        encoder.train()(to_float(images.read(torch.arange(64))))
    part = into_discriminator(encoder.eval(), mode=mode, image_size=16)
    update = GANUpdate(
        accelerator,
        generator,
        part.module,
        torch.optim.Adam(generator.parameters(), lr=generator_rate, betas=(0.0, 0.99)),
        torch.optim.Adam(part.param_groups(discriminator_rate), betas=(0.0, 0.99)),
        config(batch_size, **options),
    )
    update.discriminator_step.penalty_every = 2
    processes = accelerator.process_index, accelerator.num_processes
    return update, ImageStream(images, batch_size, 0, "cpu", *processes), accelerator
