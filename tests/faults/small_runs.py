"""A recipe of a second or two: the real loop, run folder and updates around networks of toy size.

A run has 60 steps of 8 images of 8x8 pixels, a row of the log each step and a checkpoint every seventh.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.gan import options as gan_options
from nacgen.gan.options import GANConfig
from nacgen.gan.update import GANUpdate
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator
from nacgen.models.vae import VAE, Decoder
from nacgen.pretraining.base import MomentumEncoder
from nacgen.pretraining.nac import NACQueueUpdate, NACUpdate
from nacgen.pretraining.options import NACConfig
from nacgen.system.randomness import seeded
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import train
from nacgen.training.run import open_run
from nacgen.training.update import Update, warmup_cosine
from nacgen.vae.options import ObjectiveConfig, VAEConfig
from nacgen.vae.update import Adversary, VAEUpdate

BATCH, STEPS, SIZE = 8, 60, 8
VIEWS = ViewPolicy(crop_scale=(0.5, 1.0), flip=False)
MARGINAL = NACConfig(relaxation="marginal")


class LinearEncoder(nn.Module):
    """Means and log-variances by one linear map."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(3 * SIZE**2, 2 * latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = (0.3 * self.map(images.flatten(1))).chunk(2, dim=1)
        return mean, log_variance


class Discriminator(nn.Module):
    """One convolution and one linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 1)
        )

    def forward(self, images: Tensor, full_precision: bool = False) -> Tensor:
        logits: Tensor = self.layers(images).squeeze(1)
        return logits


def build_nac(accelerator: Accelerator, code_dim: int = 8) -> Update:
    encoder = NACEncoder(code_dim=code_dim)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    return NACUpdate(accelerator, encoder, optimizer, VIEWS, MARGINAL)


def build_nac_queue(accelerator: Accelerator) -> Update:
    encoder = NACEncoder(code_dim=8)
    keys = MomentumEncoder(encoder, 40, 0.9)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05, momentum=0.9)
    return NACQueueUpdate(accelerator, encoder, optimizer, VIEWS, MARGINAL, keys)


def build_gan(accelerator: Accelerator) -> Update:
    generator, discriminator = Generator(SIZE, 8, (16, 8)), Discriminator()
    config = GANConfig(
        total_images=STEPS * BATCH,
        batch_size=BATCH,
        optim=gan_options.OptimConfig(ema_half_life=32),
        augment=gan_options.AugmentConfig(translation=0.125, cutout=0.5, adaptive=True),
        run=RunConfig(checkpoint_every=64),
    )
    update = GANUpdate(
        accelerator,
        generator,
        discriminator,
        torch.optim.Adam(generator.parameters(), lr=1e-3),
        torch.optim.Adam(discriminator.parameters(), lr=1e-3),
        config,
    )
    assert update.adaptive is not None
    update.discriminator_step.penalty_every = 2
    update.adaptive.target, update.adaptive.images_to_full = 0.1, 1_000
    return update


def build_vae(accelerator: Accelerator, latent_dim: int = 6) -> Update:
    vae = VAE(LinearEncoder(latent_dim), Decoder(SIZE, latent_dim, (16, 8)))
    discriminator = Discriminator()
    config = VAEConfig(
        total_images=STEPS * BATCH,
        batch_size=BATCH,
        adversarial=True,
        objective=ObjectiveConfig(warmup_images=10 * BATCH, free_bits=0.05),
        run=RunConfig(checkpoint_every=64),
    )
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    adversary = Adversary(accelerator, discriminator, optimizer, config)
    adversary.start, adversary.acts_from, adversary.step.penalty_every = BATCH, 2 * BATCH, 2
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    return VAEUpdate(accelerator, vae, optimizer, config, adversary=adversary)


METHODS: dict[str, Callable[..., Update]] = {
    "nac": build_nac,
    "nac_queue": build_nac_queue,
    "gan": build_gan,
    "vae": build_vae,
}
_LONG = TrainingConfig(
    total_images=STEPS * BATCH,
    batch_size=BATCH,
    run=RunConfig(log_every=BATCH, checkpoint_every=7 * BATCH, tracker="none"),
)
_SHORT = TrainingConfig(
    total_images=6 * BATCH,
    batch_size=BATCH,
    run=RunConfig(log_every=BATCH, checkpoint_every=2 * BATCH, tracker="none"),
)
PRESETS = dict.fromkeys(METHODS, _LONG) | {f"{method}-short": _SHORT for method in METHODS}


def build(method: str, accelerator: Accelerator, **options: Any) -> tuple[Update, ImageStream]:
    """The update and its stream, the same on every process."""
    with seeded(0, "test"):
        update = METHODS[method](accelerator, **options)
    shares = accelerator.process_index, accelerator.num_processes
    images = load_dataset("digits", image_size=SIZE)
    return update, ImageStream(images, BATCH, 0, accelerator.device, *shares)


def main(config: TrainingConfig) -> None:
    """The recipe; its preset says which method."""
    with open_run(f"small-{config.preset}", config) as run:
        if run.is_complete:
            run.finish()
            return
        update, stream = build(config.preset.removesuffix("-short"), run.accelerator)

        def evaluate(images_seen: int) -> dict[str, Any]:
            parameters = (p for m in update.modules.values() for p in m.parameters())
            return {"size": float(sum(p.detach().abs().sum() for p in parameters))}

        result = train(
            update,
            stream,
            run,
            schedule=warmup_cosine(config.total_images, 4 * BATCH),
            evaluate=evaluate,
            evaluate_every=16 * BATCH,
        )
        run.finish(result)


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What two runs must have in common to be called equal.

    Args:
        tensors: SHA-256 of each file of tensors in the last checkpoint: weights, averages, optimizer slots.
        log: All of metrics.jsonl.
    """

    tensors: dict[str, str]
    log: str


def fingerprint(folder: Path) -> Fingerprint:
    """Of a complete run."""
    assert json.loads((folder / "summary.json").read_text())["images_seen"] > 0
    last = max((folder / "checkpoints").glob("step_*"))
    files = last.glob("*.safetensors")
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return Fingerprint(digests, (folder / "metrics.jsonl").read_text())


def whole_checkpoints(folder: Path) -> list[int]:
    """Positions of the checkpoints in a run folder that are whole, told without nacgen's own reader."""
    positions = []
    for step in (folder / "checkpoints").glob("step_*"):
        if not (step / "MANIFEST.json").is_file():
            continue
        listed = json.loads((step / "MANIFEST.json").read_text())["files"]
        present = {file.name: file.read_bytes() for file in step.iterdir()}
        del present["MANIFEST.json"]
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in present.items()}
        if digests == {name: facts["sha256"] for name, facts in listed.items()}:
            positions.append(int(step.name.removeprefix("step_")))
    return sorted(positions)


def debris(folder: Path) -> list[Path]:
    """What a run should not leave behind."""
    return [path for path in folder.rglob(".*") if path.name != ".lock"]
