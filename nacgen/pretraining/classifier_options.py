"""Options and named settings of classifier training. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass

from nacgen.training.config import RunConfig, TrainingConfig, require_between, require_positive


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(TrainingConfig):
    """Options of classifier training: AdamW with cosine decay on augmented images."""

    total_images: int = 76_800
    """Length of training, in images seen. All processes count together."""
    batch_size: int = 128
    """Images in one step over all processes together."""
    channels: tuple[int, ...] = (32, 48, 64)
    """Channels at each resolution."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    smallest_crop: float = 0.7
    """Smallest part of an image's area that a crop keeps."""
    flip: bool = False
    """Mirror each image with probability 1/2."""

    @property
    def run_name(self) -> str:
        """Recipe and preset."""
        return f"train_classifier-{self.preset}"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "learning_rate", "channels", "smallest_crop")
        require_between(self, 0, 1, "smallest_crop")
        require_between(self, 0, math.inf, "weight_decay")


PRESETS = {
    # 2 CPU cores; about two minutes; `checkpoints/digits-classifier` was made so.
    "digits": ClassifierConfig(),
    # One CPU core; half an hour or so; accuracy 0.923 (measured), `checkpoints/fashion-classifier` was made so.
    # Needs --data-dir.
    "fashion-mnist": ClassifierConfig(
        dataset="fashion-mnist",
        total_images=480_000,
        channels=(16, 32, 64, 128),
        smallest_crop=0.9,
        flip=True,
    ),
    # Any machine; seconds; for tests.
    "smoke": ClassifierConfig(
        total_images=512,
        channels=(8, 16),
        run=RunConfig(log_every=128, checkpoint_every=256, tracker="none"),
    ),
}
