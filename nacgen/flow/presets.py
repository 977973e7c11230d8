"""Named settings of flow training.

`nacgen presets` prints the comment above each: hardware; time, as measured or not; what to expect.
"""

from dataclasses import replace

from nacgen.flow.options import FlowConfig, NetworkConfig, OptimConfig
from nacgen.training.config import DataConfig, RunConfig
from nacgen.training.generative import ScoreConfig

SMALL = FlowConfig(
    dataset="cifar10",
    total_images=256_000,
    flip=True,
    optim=OptimConfig(learning_rate=1e-3),
    score=ScoreConfig(extractor="classifier", num_samples=1_000, every=51_200),
)
# torchcfm's settings (Tong et al. 2024, arXiv:2302.00482) for 400,000 steps.
CIFAR10 = FlowConfig(
    dataset="cifar10",
    total_images=51_200_000,
    flip=True,
    network=NetworkConfig(kind="unet", dropout=0.1),
    optim=OptimConfig(learning_rate=2e-4, warmup_images=640_000, ema_half_life=887_000),
    score=ScoreConfig(extractor="inception", num_samples=10_000, every=2_560_000),
    run=RunConfig(log_every=12_800, checkpoint_every=256_000),
)

PRESETS = {
    # 2 CPU cores; three minutes (measured); fd_digits_classifier 2.8, mean of eight seeds, and 4.9 with --align
    # none.
    "digits": FlowConfig(),
    # 2 CPU cores; under an hour; not measured. Needs --data-dir, --encoder and --score.weights.
    "cifar10-small": SMALL,
    # 2 CPU cores; under an hour; not measured. Needs Fashion-MNIST's files in --data-dir, and --encoder.
    "fashion-mnist": replace(
        SMALL,
        dataset="fashion-mnist",
        flip=False,
        score=ScoreConfig(extractor="fashion_classifier", num_samples=1_000, every=51_200),
    ),
    # One GPU; a day or more; not measured. Others report FID about 3.5 for these settings without alignment. Needs
    # nacgen[flow], --data-dir and --encoder.
    "cifar10": CIFAR10,
    # One GPU; hours; not measured. Images of one's own at 64 px. Needs nacgen[flow], --data-dir and --encoder.
    "folder": replace(
        CIFAR10,
        dataset="folder",
        data=DataConfig(image_size=64),
        total_images=5_120_000,
        optim=OptimConfig(learning_rate=2e-4),
        score=ScoreConfig(num_samples=5_000, every=512_000),
        run=RunConfig(log_every=6_400, checkpoint_every=64_000),
    ),
    # Any machine; seconds; for tests.
    "smoke": FlowConfig(
        total_images=192,
        batch_size=32,
        network=NetworkConfig(channels=(8, 16)),
        score=ScoreConfig(num_samples=50, every=96),
        run=RunConfig(log_every=32, checkpoint_every=96, tracker="none"),
    ),
}
