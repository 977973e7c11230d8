"""A GAN small enough for tests, the same on every process."""

from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from nacgen.data.augment import diff_augment
from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.gan.update import GANUpdate
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator
from nacgen.system.randomness import seeded
from nacgen.training.monitors import DivergenceMonitor
from nacgen.transplant.transplant import transplant


def build(batch_size: int = 8, **options: Any) -> tuple[GANUpdate, ImageStream, Accelerator]:
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    with seeded(0, "test"):
        generator, encoder = Generator(16, 8, (16, 8, 8)), NACEncoder(code_dim=8)
    part = transplant(encoder, image_size=16)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "penalty_weight": lambda images_seen: 0.3,
        "penalty_every": 2,
        "ema_half_life": 32,
        "augment": partial(diff_augment, translation=0.125, cutout=0.5),
        "watch": DivergenceMonitor(1e3, 64),
    }
    update = GANUpdate(
        accelerator,
        generator,
        part.module,
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        torch.optim.Adam(part.param_groups(1e-3)),
        **(settings | options),
    )
    shares = accelerator.process_index, accelerator.num_processes
    return update, ImageStream(load_dataset("digits"), batch_size, 0, "cpu", *shares), accelerator
