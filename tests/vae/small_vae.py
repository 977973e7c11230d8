"""A VAE small enough for tests, the same on every process."""

from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.models.vae import VAE, Decoder
from nacgen.system.randomness import seeded
from nacgen.training.config import RunConfig
from nacgen.vae.options import ObjectiveConfig, VAEConfig
from nacgen.vae.update import Adversary, VAEUpdate

BATCH = 8


class LinearEncoder(nn.Module):
    """Means and log-variances by one linear map."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(3 * 16**2, 2 * latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = (0.3 * self.map(images.flatten(1))).chunk(2, dim=1)
        return mean, log_variance


class SmallDiscriminator(nn.Module):
    """A smooth function of each image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.SiLU(), nn.Flatten(), nn.Linear(128, 1)
        )

    def forward(self, images: Tensor, full_precision: bool = False) -> Tensor:
        logits: Tensor = self.layers(images).squeeze(1)
        return logits


class SmallDistance(nn.Module):
    """Squared differences after a fixed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3).requires_grad_(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        distance: Tensor = (self.layer(images) - self.layer(others)).square().mean((1, 2, 3))
        return distance


def build(
    rate: float = 1e-3,
    likelihood: str = "gaussian",
    adversarial: bool = True,
    has_perceptual: bool = True,
    **objective: Any,
) -> tuple[VAEUpdate, ImageStream, Accelerator]:
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    config = VAEConfig(
        total_images=5 * BATCH,
        batch_size=BATCH,
        perceptual="nac",
        adversarial=adversarial,
        objective=ObjectiveConfig(**({"warmup_images": 4 * BATCH, "free_bits": 0.05} | objective)),
        run=RunConfig(checkpoint_every=2 * BATCH, tracker="none"),
    )
    with seeded(0, "test"):
        vae = VAE(LinearEncoder(6), Decoder(16, 6, (16, 8, 8), likelihood))
        discriminator, distance = SmallDiscriminator(), SmallDistance()
    adversary = None
    if adversarial:
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=rate, betas=(0.0, 0.99))
        adversary = Adversary(accelerator, discriminator, optimizer, config)
        adversary.start, adversary.acts_from = BATCH, 2 * BATCH
        adversary.step.penalty_every = 2
    update = VAEUpdate(
        accelerator,
        vae,
        torch.optim.Adam(vae.parameters(), lr=rate),
        config,
        distance if has_perceptual else None,
        adversary,
    )
    processes = accelerator.process_index, accelerator.num_processes
    return update, ImageStream(load_dataset("digits"), BATCH, 0, "cpu", *processes), accelerator
