"""Named settings of VAE training.

`nacgen presets` prints the comment above each: hardware; time, as measured or not; what to expect.
"""

from dataclasses import replace

from nacgen.training.config import DataConfig, RunConfig
from nacgen.vae.options import DecoderConfig, OptimConfig, PosteriorConfig, ScoreConfig, VAEConfig

CIFAR10 = VAEConfig(
    dataset="cifar10",
    total_images=51_200,
    posterior=PosteriorConfig(latent_dim=64),
    score=ScoreConfig(extractor="classifier", every=12_800, bound_images=20),
)
PRESETS = {
    # 2 CPU cores; under three minutes, 85 s of one core (measured); at half the length 4.424 bits per dimension
    # of held-out images, mean of eight seeds, and 4.444 with --init random.
    "digits": VAEConfig(),
    # 2 CPU cores; minutes; not measured. Needs --data-dir, --encoder and --score.weights.
    "cifar10-small": CIFAR10,
    # 2 CPU cores; minutes; not measured. Needs Fashion-MNIST's files in --data-dir, and --encoder.
    "fashion-mnist": replace(
        CIFAR10,
        dataset="fashion-mnist",
        posterior=PosteriorConfig(latent_dim=32),
        score=ScoreConfig(extractor="fashion_classifier", every=12_800, bound_images=20),
    ),
    # One GPU with bf16; meant to take about 10 minutes; not measured. Needs --data-dir and --encoder.
    "cifar10": replace(
        CIFAR10,
        total_images=2_560_000,
        batch_size=256,
        posterior=PosteriorConfig(latent_dim=128),
        decoder=DecoderConfig(likelihood="logistic_mixture", channels=(256, 256, 128, 128)),
        optim=OptimConfig(learning_rate=1e-3, warmup_images=25_600),
        score=ScoreConfig(
            extractor="inception", num_samples=10_000, every=256_000, bound_images=200
        ),
        run=RunConfig(log_every=2_560, checkpoint_every=256_000),
    ),
    # One GPU; an hour or less; not measured. Images of your own at 64 px.
    "folder": VAEConfig(
        dataset="folder",
        data=DataConfig(image_size=64),
        total_images=512_000,
        posterior=PosteriorConfig(latent_dim=128),
        decoder=DecoderConfig(channels=(256, 256, 128, 64, 64)),
        optim=OptimConfig(learning_rate=1e-3, warmup_images=6_400),
        score=ScoreConfig(every=51_200),
        run=RunConfig(log_every=2_560, checkpoint_every=51_200),
    ),
    # Any machine; seconds; for tests.
    "smoke": VAEConfig(
        total_images=192,
        batch_size=32,
        decoder=DecoderConfig(channels=(16, 16, 8)),
        score=ScoreConfig(num_samples=100, every=96, bound_images=2),
        run=RunConfig(log_every=32, checkpoint_every=96, tracker="none"),
    ),
}
