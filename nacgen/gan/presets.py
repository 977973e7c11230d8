"""Named settings of GAN training.

`nacgen presets` prints the comment above each: hardware; time, as measured or not; what to expect.
"""

from dataclasses import replace

from nacgen.gan.options import (
    AugmentConfig,
    DiscriminatorConfig,
    GANConfig,
    GeneratorConfig,
    OptimConfig,
)
from nacgen.training.config import DataConfig, RunConfig
from nacgen.training.generative import ScoreConfig

# On photographs the trunk learns at the heads' rate: see docs/generative.md.
PHOTOGRAPHS = DiscriminatorConfig(trunk_lr_multiplier=1.0)
# Of R3GAN (Huang et al. 2024, arXiv:2501.05441) for 32 px, at a batch of 256.
R3GAN = OptimConfig(
    learning_rate=4e-4, penalty_weight=0.05, final_penalty_weight=0.005, ema_half_life=76_800
)
CIFAR10 = GANConfig(
    dataset="cifar10",
    total_images=1_536_000,
    batch_size=256,
    generator=GeneratorConfig(channels=(256, 256, 256, 256)),
    discriminator=PHOTOGRAPHS,
    optim=R3GAN,
    augment=AugmentConfig(translation=0.125, cutout=0.25),
    score=ScoreConfig(extractor="inception", num_samples=10_000, every=153_600),
    run=RunConfig(log_every=2_560, checkpoint_every=153_600),
)

PRESETS = {
    # 2 CPU cores; two minutes (measured); fd_digits_classifier 4.2, mean of eight seeds, and 8.9 with --init
    # random.
    "digits": GANConfig(),
    # 2 CPU cores; under a quarter of an hour, 66 images a second on one core (measured); needs --data-dir,
    # --encoder and --score.weights; on JPEGs of CIFAR-10 NAC's start did not help (docs/generative.md).
    "cifar10-small": GANConfig(
        dataset="cifar10",
        total_images=51_200,
        discriminator=PHOTOGRAPHS,
        optim=OptimConfig(penalty_weight=0.05, ema_half_life=2_560),
        augment=AugmentConfig(translation=0.125, cutout=0.25),
        score=ScoreConfig(extractor="classifier", every=10_240),
    ),
    # 2 CPU cores; not measured; needs Fashion-MNIST's files in --data-dir, and --encoder.
    "fashion-mnist": GANConfig(
        dataset="fashion-mnist",
        total_images=51_200,
        optim=OptimConfig(ema_half_life=2_560),
        score=ScoreConfig(extractor="fashion_classifier", every=10_240),
    ),
    # One GPU with bf16; 8 minutes of training on an H200, extrapolated from 3,450 images a second (measured);
    # its FID is not measured. Needs --data-dir and --encoder.
    "cifar10": CIFAR10,
    # One GPU; hours; not measured.
    "cifar10-long": replace(
        CIFAR10,
        total_images=25_600_000,
        optim=replace(R3GAN, ema_half_life=500_000),
        score=ScoreConfig(extractor="inception", num_samples=50_000, every=1_280_000),
        run=RunConfig(log_every=25_600, checkpoint_every=256_000),
    ),
    # One GPU; about a day; not measured, others report FID 16.8. SNGAN as published (Miyato et al. 2018,
    # arXiv:1802.05957): 100,000 steps of the generator, no averaging.
    "sngan-cifar10": GANConfig(
        dataset="cifar10",
        init="random",
        total_images=32_000_000,
        batch_size=64,
        generator=GeneratorConfig(latent_dim=128, channels=(256, 256, 256, 256), block="sngan"),
        discriminator=DiscriminatorConfig(network="sngan"),
        optim=OptimConfig(
            loss="hinge",
            learning_rate=2e-4,
            schedule="linear",
            beta2=0.9,
            discriminator_steps=5,
            penalty_weight=0.0,
            ema_half_life=1.0,
        ),
        augment=AugmentConfig(translation=0.0),
        score=ScoreConfig(extractor="inception", num_samples=50_000, every=1_600_000),
        run=RunConfig(log_every=32_000, checkpoint_every=320_000),
    ),
    # One GPU; hours; not measured. After Projected GAN (Sauer et al. 2021, arXiv:2111.01007).
    "projected": GANConfig(
        dataset="cifar10",
        total_images=5_120_000,
        batch_size=64,
        generator=GeneratorConfig(latent_dim=128, channels=(256, 256, 256, 256)),
        discriminator=DiscriminatorConfig(mode="frozen", head="projected", spectral_norm="heads"),
        optim=OptimConfig(
            loss="hinge", learning_rate=2e-4, penalty_weight=0.0, ema_half_life=256_000
        ),
        augment=AugmentConfig(translation=0.125, cutout=0.5, color=True),
        score=ScoreConfig(extractor="inception", num_samples=10_000, every=512_000),
        run=RunConfig(log_every=6_400, checkpoint_every=128_000),
    ),
    # One GPU; hours; not measured. Images of your own, at 32, 64 or 128 px by --data.image-size.
    "folder": GANConfig(
        dataset="folder",
        total_images=2_560_000,
        data=DataConfig(image_size=64),
        optim=OptimConfig(learning_rate=2e-4, penalty_weight=1.0, ema_half_life=128_000),
        augment=AugmentConfig(translation=0.125, cutout=0.25, color=True, adaptive=True),
        score=ScoreConfig(num_samples=10_000, every=256_000),
        run=RunConfig(log_every=6_400, checkpoint_every=64_000),
    ),
    # Any machine; seconds; for tests.
    "smoke": GANConfig(
        total_images=192,
        batch_size=32,
        score=ScoreConfig(num_samples=100, every=96),
        run=RunConfig(log_every=32, checkpoint_every=96, tracker="none"),
    ),
}
