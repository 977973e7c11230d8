"""Options of flow training. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass
from typing import Literal

from nacgen.system.places import require_diffusers
from nacgen.training.config import refuse_unheeded, require_between, require_positive
from nacgen.training.generative import GenerativeConfig, ScoreConfig


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Options of the denoiser, see nacgen.models.denoiser.Denoiser."""

    kind: Literal["small", "unet", "dit"] = "small"
    """Architecture. small: a U-Net for two cores; unet, dit: UNet2DModel and DiTTransformer2DModel of diffusers
    (pip install "nacgen[flow]")."""
    channels: tuple[int, ...] | None = None
    """Channels of a U-Net's levels, each at half the size of the one before; of dit its one width. None: by kind
    and size of images, 32 64 64 for small and 16x16."""
    num_blocks: int | None = None
    """Blocks of a level of unet, or of dit. None: 2 and 12; small has one a level."""
    dropout: float = 0.0
    """Fraction of the channels that training drops within blocks."""

    def __post_init__(self) -> None:
        require_positive(self, "channels", "num_blocks")
        require_between(self, 0, 0.9, "dropout")


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Options of the alignment, see nacgen.transplant; with --align none they have no effect."""

    stage: str | None = None
    """Stage of the encoder whose feature maps are the target. None: the last."""
    projector: Literal["conv", "mlp"] = "conv"
    """Network from the hidden state to the target. conv: a 3x3 convolution (iREPA); mlp: three layers (REPA)."""
    standardize: bool = True
    """Bring each channel of the target to mean 0 and deviation 1 over space."""
    weight: float = 0.5
    """Weight of the alignment loss beside that of the velocity."""
    until: float = 1.0
    """Share of training after which the weight is 0. For none give --align none."""

    def __post_init__(self) -> None:
        require_positive(self, "weight", "until")
        require_between(self, 0, 1, "until")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Options of AdamW, whose gradients are clipped to norm 1, with linear warm-up and then a constant rate."""

    learning_rate: float = 2e-3
    """Learning rate after the warm-up."""
    warmup_images: int | None = None
    """Length of the linear warm-up. None: a twentieth of the run."""
    ema_half_life: float | None = None
    """Half-life of the denoiser's moving average, in images. None: a twentieth of the run."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate", "ema_half_life")
        require_between(self, 0, math.inf, "warmup_images")


DIGITS_SCORE = ScoreConfig(num_samples=1_000, every=12_800)


@dataclass(frozen=True, kw_only=True)
class FlowConfig(GenerativeConfig):
    """Options of flow training."""

    ARM, RECIPE = "align", "train_flow"
    total_images: int = 51_200
    """Length of training, in images seen. All processes count together."""
    batch_size: int = 128
    """Images in one step over all processes together."""
    align: Literal["none", "nac", "simclr", "supervised", "random", "shuffled"] = "nac"
    """Encoder whose features a hidden state of the denoiser is aligned to. It was pretrained by this method, or
    has random or permuted weights; none: only the flow's loss."""
    flip: bool = False
    """Mirror half of the images."""
    network: NetworkConfig = NetworkConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    optim: OptimConfig = OptimConfig()
    score: ScoreConfig = DIGITS_SCORE

    def __post_init__(self) -> None:
        super().__post_init__()
        # With align none, encoder and alignment are taken: arms of a comparison share them.
        is_small = self.network.kind == "small"
        reason = "with --network.kind small, which has one block a level"
        refuse_unheeded(self, is_small, ["network.num_blocks"], reason)

    @property
    def needs_encoder(self) -> bool:
        """True where something is aligned to an encoder."""
        return self.align != "none"

    @property
    def warmup_images(self) -> int:
        """Images over which the learning rate rises."""
        given = self.optim.warmup_images
        return self.total_images // 20 if given is None else given

    @property
    def ema_half_life(self) -> float:
        """Half-life of the moving average in images."""
        given = self.optim.ema_half_life
        return self.total_images / 20 if given is None else given

    def alignment_weight(self, images_seen: int) -> float:
        """Return the weight of the alignment loss at a position."""
        is_over = images_seen >= self.alignment.until * self.total_images
        return 0.0 if is_over else self.alignment.weight

    def check_inputs(self) -> None:
        """Raise unless the network's package is installed and what other options name exists."""
        if self.network.kind != "small":
            require_diffusers(f"network {self.network.kind}")
        super().check_inputs()
