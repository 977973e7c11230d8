"""Train a GAN whose discriminator starts from a NAC encoder, and score it along the way.

    accelerate launch recipes/train_gan.py
    accelerate launch recipes/train_gan.py --init random      # the control arm

With no flags it trains on the embedded digits for two minutes on a laptop CPU and leaves samples,
scores and the generator in runs/train_gan-digits-nac-seed0.
"""

import sys
from dataclasses import dataclass
from typing import Any, Literal

from nacgen.training.config import RunConfig, TrainingConfig, require_positive, run_recipe


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """How the encoder becomes a discriminator, see nacgen.transplant."""

    mode: Literal["init", "partial", "frozen"] = "init"
    """init: all of it trains; partial: half of its stages is frozen; frozen: only heads train."""
    trunk_lr_multiplier: float = 0.3
    """Learning rate of the encoder's part relative to the heads."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The generator, see nacgen.models.gan.Generator."""

    latent_dim: int = 64
    """Length of the latent vector."""
    channels: tuple[int, ...] = (96, 64, 32)
    """At 4x4, then after each doubling; three entries make 16x16 images."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam for both networks, RpGAN with R1 and R2."""

    learning_rate: float = 1e-3
    """Of the generator and of the discriminator's heads."""
    penalty_weight: float = 0.3
    """Gamma of R1 and R2."""
    penalty_every: int = 4
    """Steps between two penalties, each weighted by it."""
    ema_half_life: float = 1_280
    """Of the averaged generator, in images."""
    translation: float = 0.125
    """Largest shift of DiffAugment as a share of the size; 0 for none."""
    cutout: float = 0.0
    """Side of DiffAugment's blank square as a share of the size; 0 for none."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "learning_rate", "penalty_every", "ema_half_life")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How the averaged generator is scored."""

    extractor: Literal["digits_classifier", "inception"] = "digits_classifier"
    """Features that images are compared by; inception gives FID."""
    weights: str | None = None
    """File of the FID Inception's weights, or a classifier's folder."""
    num_samples: int = 2_000
    """Images to generate for a score."""
    every: int = 2_560
    """Images seen between two scores."""


@dataclass(frozen=True, kw_only=True)
class GANConfig(TrainingConfig):
    """Options of GAN training."""

    encoder: str = "checkpoints/digits-nac"
    """Folder or Hub id of a NAC encoder; the control arms take their architecture from it."""
    init: Literal["nac", "random", "shuffled"] = "nac"
    """What the discriminator starts from: the encoder's weights, random or permuted ones."""
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()
    score: ScoreConfig = ScoreConfig()


PRESETS = {
    # 2 CPU cores, about two minutes.
    "digits": GANConfig(),
    # Seconds, for tests.
    "smoke": GANConfig(
        total_images=192,
        batch_size=32,
        generator=GeneratorConfig(channels=(16, 16, 8)),
        score=ScoreConfig(num_samples=100, every=96),
        run=RunConfig(log_every=32, checkpoint_every=96, tracker="none"),
    ),
}


def main(config: GANConfig) -> None:
    """Build data, both networks and the update; train, score and report."""
    import torch

    from nacgen import metrics, transplant
    from nacgen.data.augment import to_float
    from nacgen.data.datasets import load_dataset
    from nacgen.data.pictures import write_grid
    from nacgen.data.randomness import normal_rows, seeded
    from nacgen.data.stream import ImageStream
    from nacgen.models.encoder import NACEncoder
    from nacgen.models.gan import Generator
    from nacgen.reporting.document import report_run
    from nacgen.training.gan import GANUpdate
    from nacgen.training.launch import finish, open_run
    from nacgen.training.loop import train

    run, accelerator = open_run(
        f"train_gan-{config.preset}-{config.init}", config, allow_fp16=False
    )
    if run.is_complete:
        finish(run, report=report_run)
        return
    device, share = accelerator.device, (accelerator.process_index, accelerator.num_processes)

    dataset = load_dataset(config.dataset, "train", config.data_dir, config.data.image_size)
    stream = ImageStream(dataset, config.batch_size, config.seed, device, *share)
    extractor = metrics.build_extractor(
        config.score.extractor, weights=config.score.weights, device=device
    )

    with seeded(config.seed, "generator"):
        generator = Generator(
            dataset.image_size, config.generator.latent_dim, config.generator.channels
        )
    part = transplant(
        NACEncoder.from_pretrained(config.encoder),
        into="discriminator",
        mode=config.discriminator.mode,
        image_size=dataset.image_size,
        source="encoder" if config.init == "nac" else config.init,
        calibration_images=to_float(stream.images[stream.indices(0)]).cpu(),
        trunk_lr_multiplier=config.discriminator.trunk_lr_multiplier,
        seed=config.seed,
    )
    accelerator.print(part.report, file=sys.stderr)
    generator = generator.to(memory_format=torch.channels_last).to(device)
    discriminator = part.module.to(memory_format=torch.channels_last).to(device)
    rate, betas = config.optim.learning_rate, (0.0, 0.99)
    update = GANUpdate(
        accelerator,
        generator,
        discriminator,
        torch.optim.Adam(generator.parameters(), lr=rate, betas=betas),
        torch.optim.Adam(part.param_groups(rate), lr=rate, betas=betas),
        batch_size=config.batch_size,
        penalty_weight=config.optim.penalty_weight,
        penalty_every=config.optim.penalty_every,
        ema_half_life=config.optim.ema_half_life,
        translation=config.optim.translation,
        cutout=config.optim.cutout,
    )
    reference = metrics.ReferenceStatistics.compute(dataset, extractor, device=device)

    def generate(indices: torch.Tensor) -> torch.Tensor:
        z = normal_rows(0, "sample", indices, config.generator.latent_dim).to(device)
        return metrics.to_uint8(update.ema(z))

    def evaluate(images_seen: int) -> dict[str, Any]:
        result = metrics.evaluate(
            generate,
            reference,
            extractor=extractor,
            num_samples=config.score.num_samples,
            process_index=share[0],
            num_processes=share[1],
            device=device,
        )
        if accelerator.is_main_process:
            with torch.no_grad():
                images = generate(torch.arange(100))
            write_grid(images, run.path / "samples" / f"images_{images_seen:08d}.png", 10, zoom=2)
        return {"evaluation": result.to_dict()}

    result = train(
        update, stream, run, accelerator, evaluate=evaluate, evaluate_every=config.score.every
    )
    if accelerator.is_main_process:
        update.averaged_generator.save_pretrained(run.path / "generator")
    finish(run, result, report_run)


if __name__ == "__main__":
    run_recipe(main, GANConfig, PRESETS)
