"""Options of GAN training. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass
from typing import Literal

from nacgen.errors import ConfigurationError
from nacgen.training.config import (
    TrainingConfig,
    require_between,
    require_positive,
)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """How the encoder becomes a discriminator, see nacgen.transplant."""

    network: Literal["encoder", "sngan"] = "encoder"
    """encoder: a transplanted one; sngan: that of Miyato et al. 2018, which starts from random weights."""
    mode: Literal["init", "partial", "frozen"] = "init"
    """init: all of it trains; partial: half of its stages is frozen; frozen: only heads train, one on
    every stage and one on a small branch that sees the pixels."""
    head: Literal["linear", "basis", "projected"] = "basis"
    """linear: on mean features; basis: on weighted pixels; projected: on maps that are mixed at random over
    channels and scales, each halved down to 4 px."""
    return_nodes: tuple[str, ...] | None = None
    """Stages that get a head. None: the last, or all where the encoder is frozen."""
    spectral_norm: Literal["none", "heads", "cap"] = "none"
    """heads: of what is new; cap: also, no convolution of the encoder's grows beyond its first norm."""
    trunk_lr_multiplier: float = 0.3
    """Learning rate of the encoder's last stage relative to the heads."""
    stage_lr_decay: float = 1.0
    """Learning rate of each stage relative to the one above it."""
    head_warmup_images: int = 0
    """Images for which the heads train alone."""
    unfreeze_every: int = 0
    """Images between the start of a stage and that of the one below it."""
    ramp_images: int = 0
    """Images over which a stage's learning rate rises from 0."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "trunk_lr_multiplier", "stage_lr_decay")
        require_between(self, 0, math.inf, "head_warmup_images", "unfreeze_every", "ramp_images")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The generator, see nacgen.models.gan.Generator."""

    latent_dim: int = 64
    """Length of the latent vector."""
    channels: tuple[int, ...] | None = None
    """At 4x4, then after each doubling; None: by the images' size, 96 64 32 for 16x16."""
    block: Literal["small", "sngan"] = "small"
    """small: GroupNorm; sngan: that of Miyato et al. 2018, with BatchNorm and four times the work."""
    compile: bool = False
    """Whether torch.compile translates it, which takes a minute and a C++ compiler. The discriminator is
    never compiled: its penalties differentiate a gradient."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "latent_dim", *(["channels"] if self.channels is not None else []))


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam for both networks, losses and penalties."""

    loss: Literal["rpgan", "hinge", "non-saturating"] = "rpgan"
    """rpgan: the relativistic pairing loss; hinge; non-saturating: the logistic one."""
    learning_rate: float = 1e-3
    """Of the generator and of the discriminator's heads."""
    schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 at the end."""
    beta2: float = 0.99
    """Of Adam, whose beta1 is 0."""
    discriminator_steps: int = 1
    """Steps of the discriminator for each of the generator; each takes a batch of its own."""
    micro_batches: int = 1
    """Parts in which a batch passes the networks, for less memory; the gradients are those of the whole."""
    penalty_weight: float = 0.3
    """Gamma of R1 and R2; 0 for no penalty."""
    final_penalty_weight: float | None = None
    """Gamma at the end, reached along half a cosine. None: as at the start."""
    penalty_every: int = 4
    """Steps between two penalties, each weighted by it."""
    penalized: Literal["both", "real"] = "both"
    """both: R1 on real images and R2 on generated ones; real: R1 alone."""
    ema_half_life: float = 1_280
    """Of the averaged generator, in images."""
    largest_logit: float = 1_000.0
    """A run stops where logits are larger, on average over a batch, from one checkpoint to the next."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(
            self,
            *("learning_rate", "discriminator_steps", "micro_batches", "penalty_every"),
            *("ema_half_life", "largest_logit"),
        )
        if not 0 <= self.beta2 < 1:
            raise ConfigurationError(
                f"beta2 must be 0 or more and below 1, got {self.beta2}. Change --optim.beta2."
            )
        require_between(self, 0, math.inf, "penalty_weight")
        if self.final_penalty_weight is not None:
            require_between(self, 0, math.inf, "final_penalty_weight")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What real and generated images undergo before the discriminator sees them."""

    translation: float = 0.125
    """Largest shift of DiffAugment as a share of the size; 0 for none."""
    cutout: float = 0.0
    """Side of DiffAugment's blank square as a share of the size; 0 for none."""
    color: bool = False
    """Whether DiffAugment changes colours, too."""
    adaptive: bool = False
    """Adaptive augmentation (ADA) as well: flips, turns, stretches and colours, the more often the more the
    discriminator overfits. For little data; digits do not survive its flips and turns."""
    target: float = 0.6
    """Of ADA: mean sign of real logits to hold (RpGAN: of their differences from generated ones)."""
    images_to_full: float = 500_000
    """Of ADA: images over which its probability may go from 0 to 1."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_between(self, 0, 1, "translation", "cutout")
        require_between(self, -1, 1, "target")
        require_positive(self, "images_to_full")


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
    """Folder or Hub id of an encoder; the control arms take their architecture from it.
    None: checkpoints/digits-nac, for digits."""
    init: Literal["nac", "simclr", "supervised", "random", "shuffled"] = "nac"
    """What the discriminator starts from: the weights of an encoder that was pretrained so, or random or
    permuted ones."""
    conditional: bool = False
    """Whether both networks know the images' classes."""
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    score: ScoreConfig = ScoreConfig()

    def __post_init__(self) -> None:
        """Check what contradicts itself, before data or weights are touched."""
        super().__post_init__()
        if self.discriminator.network == "sngan" and self.init != "random":
            raise ConfigurationError(
                f"discriminator.network sngan has no encoder's weights to start from, got init {self.init}. "
                "Give --init random, or --discriminator.network encoder."
            )
        if self.batch_size % self.optim.micro_batches:
            raise ConfigurationError(
                f"batch_size must be a multiple of optim.micro_batches, got {self.batch_size} and "
                f"{self.optim.micro_batches}. Change one of --batch-size and --optim.micro-batches."
            )
        if self.generator.block == "sngan" and self.optim.micro_batches > 1:
            raise ConfigurationError(
                f"generator.block sngan takes BatchNorm over the whole batch, got {self.optim.micro_batches} "
                "micro-batches. Give --optim.micro-batches 1, or --generator.block small."
            )

    def check_networks(self) -> None:
        """Raise unless encoder and score fit the images.

        Raises:
            ConfigurationError: Images other than the digits need networks that were trained on them, and so
                does an arm whose encoder is not released; the message says how to get these.
        """
        has_encoder = self.encoder is not None or self.discriminator.network == "sngan"
        if self.dataset == "digits":
            if not has_encoder and self.init in ("simclr", "supervised"):
                raise ConfigurationError(
                    f"--init {self.init} needs an encoder that was pretrained so, but --encoder is not given. Run "
                    f"recipes/pretrain_nac.py --objective {self.init} --run-dir A, then give --encoder A/encoder."
                )
            return
        if has_encoder and self.score.extractor:
            return
        raise ConfigurationError(
            "--encoder and --score.extractor must be given for images other than the digits, got "
            f"{self.encoder} and {self.score.extractor} for {self.dataset}. With the same --dataset, "
            "--data-dir and --data.image-size, in this order: 1. recipes/pretrain_nac.py --run-dir A, then give "
            "--encoder A/encoder. 2. For the score recipes/train_classifier.py --run-dir B, which needs labels, "
            "then give --score.extractor classifier --score.weights B/classifier; or give --score.extractor "
            "inception, and --score.weights FILE where its weights cannot be downloaded."
        )
