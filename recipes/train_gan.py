"""Train a GAN whose discriminator starts from a NAC encoder, and score it along the way.

    accelerate launch recipes/train_gan.py
    accelerate launch recipes/train_gan.py --init random      # the control arm

With no flags it trains on the embedded digits for two minutes on a laptop CPU and leaves samples,
scores and the generator in runs/train_gan-digits-nac-seed0. Your own images, labelled by subfolders:

    data="--dataset folder --data-dir PATH --data.image-size 32"
    score="--score.extractor classifier --score.weights runs/own-classifier/classifier"
    accelerate launch recipes/pretrain_nac.py $data --run-dir runs/own-nac
    accelerate launch recipes/train_classifier.py $data --run-dir runs/own-classifier
    accelerate launch recipes/train_gan.py $data $score --encoder runs/own-nac/encoder --run-dir runs/own-gan
"""

import math
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from nacgen.errors import ConfigurationError
from nacgen.training.config import (
    RunConfig,
    TrainingConfig,
    require_between,
    require_positive,
    run_recipe,
    to_dict,
)

DIGITS_ENCODER, DIGITS_EXTRACTOR = "checkpoints/digits-nac", "digits_classifier"


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """How the encoder becomes a discriminator, see nacgen.transplant."""

    mode: Literal["init", "partial", "frozen"] = "init"
    """init: all of it trains; partial: half of its stages is frozen; frozen: only heads train."""
    trunk_lr_multiplier: float = 0.3
    """Learning rate of the encoder's part relative to the heads."""

    def __post_init__(self) -> None:
        """Check the number."""
        require_between(self, 0, math.inf, "trunk_lr_multiplier")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The generator, see nacgen.models.gan.Generator."""

    latent_dim: int = 64
    """Length of the latent vector."""
    channels: tuple[int, ...] | None = None
    """At 4x4, then after each doubling; None: by the images' size, 96 64 32 for 16x16."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "latent_dim", *(["channels"] if self.channels is not None else []))


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
        require_between(self, 0, math.inf, "penalty_weight")
        require_between(self, 0, 1, "translation", "cutout")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How the averaged generator is scored."""

    extractor: Literal["digits_classifier", "classifier", "inception"] | None = None
    """Features that images are compared by: the released classifier's (None, for digits), those of a
    classifier of your own, or Inception's, which give FID."""
    weights: str | None = None
    """A classifier's folder, or the file of the FID Inception's weights."""
    num_samples: int = 2_000
    """Images to generate for a score."""
    every: int = 2_560
    """Images seen between two scores."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_between(self, 2, math.inf, "num_samples")
        require_positive(self, "every")


@dataclass(frozen=True, kw_only=True)
class GANConfig(TrainingConfig):
    """Options of GAN training."""

    encoder: str | None = None
    """Folder or Hub id of a NAC encoder; the control arms take their architecture from it.
    None: checkpoints/digits-nac, for digits."""
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
    from nacgen.models.gan import Generator, channels_for
    from nacgen.reporting.document import report_run
    from nacgen.training.gan import GANUpdate
    from nacgen.training.launch import finish, open_run
    from nacgen.training.loop import train

    run, accelerator = open_run(
        f"train_gan-{config.preset}-{config.init}", config, allow_fp16=False
    )
    report = partial(report_run, preset=to_dict(PRESETS[config.preset]))
    if run.is_complete:
        finish(run, report=report)
        return
    device, share = accelerator.device, (accelerator.process_index, accelerator.num_processes)

    dataset = load_dataset(config.dataset, "train", config.data_dir, config.data.image_size)
    check_networks(config)
    stream = ImageStream(dataset, config.batch_size, config.seed, device, *share)
    extractor = metrics.build_extractor(
        config.score.extractor or DIGITS_EXTRACTOR, weights=config.score.weights, device=device
    )

    channels = config.generator.channels or channels_for(dataset.image_size)
    with seeded(config.seed, "generator"):
        generator = Generator(dataset.image_size, config.generator.latent_dim, channels)
    encoder = NACEncoder.from_pretrained(config.encoder or DIGITS_ENCODER)
    part = transplant(
        encoder,
        into="discriminator",
        mode=config.discriminator.mode,
        image_size=dataset.image_size,
        source="encoder" if config.init == "nac" else config.init,
        calibration_images=to_float(dataset.read(stream.indices(0))),
        seed=config.seed,
    )
    accelerator.print(part.report, file=sys.stderr)
    generator = generator.to(memory_format=torch.channels_last).to(device)
    discriminator = part.module.to(memory_format=torch.channels_last).to(device)
    rate, betas = config.optim.learning_rate, (0.0, 0.99)
    groups = part.param_groups(rate, trunk_multiplier=config.discriminator.trunk_lr_multiplier)
    update = GANUpdate(
        accelerator,
        generator,
        discriminator,
        torch.optim.Adam(generator.parameters(), lr=rate, betas=betas),
        torch.optim.Adam(groups, lr=rate, betas=betas),
        batch_size=config.batch_size,
        penalty_weight=config.optim.penalty_weight,
        penalty_every=config.optim.penalty_every,
        ema_half_life=config.optim.ema_half_life,
        translation=config.optim.translation,
        cutout=config.optim.cutout,
    )
    reference = metrics.ReferenceStatistics.compute(dataset, extractor, accelerator=accelerator)

    def generate(indices: torch.Tensor) -> torch.Tensor:
        z = normal_rows(0, "sample", indices, config.generator.latent_dim).to(device)
        return metrics.to_uint8(update.ema(z))

    def evaluate(images_seen: int) -> dict[str, Any]:
        result = metrics.evaluate(
            generate,
            reference,
            extractor=extractor,
            num_samples=config.score.num_samples,
            accelerator=accelerator,
        )
        if accelerator.is_main_process:
            with torch.no_grad():
                images = generate(torch.arange(100))
            path = run.path / "samples" / f"images_{images_seen:08d}.png"
            with run.writing("sample grid"):
                write_grid(images, path, 10, zoom=2)
        return {"evaluation": result.to_dict()}

    result = train(
        update, stream, run, accelerator, evaluate=evaluate, evaluate_every=config.score.every
    )
    if accelerator.is_main_process:
        with run.writing("generator"):
            update.averaged_generator.save_pretrained(run.path / "generator")
    pretraining = None if config.init == "random" else encoder.pretraining or "unknown"
    finish(run, result, report, pretraining=pretraining)


def check_networks(config: GANConfig) -> None:
    """Images other than the digits need networks that were trained on them; say how to get these."""
    if config.dataset == "digits" or (config.encoder and config.score.extractor):
        return
    raise ConfigurationError(
        "--encoder and --score.extractor must be given for images other than the digits, got "
        f"{config.encoder} and {config.score.extractor} for {config.dataset}. With the same --dataset, "
        "--data-dir and --data.image-size, in this order: 1. recipes/pretrain_nac.py --run-dir A, then give "
        "--encoder A/encoder. 2. For the score recipes/train_classifier.py --run-dir B, which needs labels, then "
        "give --score.extractor classifier --score.weights B/classifier; or give --score.extractor inception, and "
        "--score.weights FILE where its weights cannot be downloaded."
    )


if __name__ == "__main__":
    run_recipe(main, GANConfig, PRESETS)
