"""Options of GAN training. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass
from typing import Literal

from nacgen.errors import ConfigurationError
from nacgen.training.config import refuse_unheeded, require_between, require_positive
from nacgen.training.generative import GenerativeConfig


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminator, see nacgen.transplant."""

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
    """heads: of new layers; cap: also, no convolution of the encoder grows beyond its first norm."""
    trunk_lr_multiplier: float = 0.3
    """Learning rate of the encoder's layers relative to the heads."""
    head_warmup_images: int = 0
    """Images for which the heads train alone."""
    unfreeze_every: int = 0
    """Images between the start of a stage and that of the one below it."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "trunk_lr_multiplier")
        require_between(self, 0, math.inf, "head_warmup_images", "unfreeze_every")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The generator, see nacgen.models.gan.Generator."""

    latent_dim: int = 64
    """Length of the latent vector."""
    channels: tuple[int, ...] | None = None
    """At 4x4, then after each doubling; None: by the images' size, 96 64 32 for 16x16."""
    block: Literal["small", "sngan"] = "small"
    """small: GroupNorm; sngan: that of Miyato et al. 2018, with BatchNorm and four times the work."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "latent_dim", *(["channels"] if self.channels is not None else []))


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam for both networks, losses and penalties."""

    loss: Literal["rpgan", "hinge", "non-saturating"] = "rpgan"
    """rpgan: the relativistic pairing loss; hinge; non-saturating: the logistic one."""
    learning_rate: float = 1e-3
    """Learning rate of the generator and of the discriminator's heads."""
    schedule: Literal["constant", "linear"] = "constant"
    """linear: the learning rate falls to 0 at the end."""
    beta2: float = 0.99
    """Beta2 of Adam, whose beta1 is 0."""
    discriminator_steps: int = 1
    """Steps of the discriminator for each of the generator; each takes a batch of its own."""
    micro_batches: int = 1
    """Parts in which a batch passes the networks, for less memory; the gradients are those of the whole."""
    penalty_weight: float = 0.3
    """Gamma of R1 on real images and R2 on generated ones; 0 for no penalty."""
    final_penalty_weight: float | None = None
    """Gamma at the end, reached along half a cosine. None: as at the start."""
    penalty_every: int = 4
    """Steps between two penalties, each weighted by it."""
    ema_half_life: float = 1_280
    """Half-life of the averaged generator's memory, in images."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(
            self,
            *("learning_rate", "discriminator_steps", "micro_batches", "penalty_every"),
            "ema_half_life",
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
    """Augmentation of real and generated images before the discriminator sees them."""

    translation: float = 0.125
    """Largest shift of DiffAugment relative to the images' size; 0 for none."""
    cutout: float = 0.0
    """Side of DiffAugment's blank square relative to the images' size; 0 for none."""
    color: bool = False
    """Let DiffAugment change colors, too."""
    adaptive: bool = False
    """Adaptive augmentation (ADA) as well: flips, turns, stretches and colors, the more often the more the
    discriminator overfits. For little data; digits do not survive its flips and turns."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_between(self, 0, 1, "translation", "cutout")


@dataclass(frozen=True, kw_only=True)
class GANConfig(GenerativeConfig):
    """Options of GAN training."""

    conditional: bool = False
    """Give both networks the images' classes."""
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()

    @property
    def needs_encoder(self) -> bool:
        """True where the discriminator is made from an encoder."""
        return self.discriminator.network == "encoder"

    def __post_init__(self) -> None:
        """Check options against one another, before data or weights are touched."""
        super().__post_init__()
        if not self.needs_encoder and self.init != "random":
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
        of_encoder = ("mode", "head", "return_nodes", "spectral_norm")
        of_trunk = ("trunk_lr_multiplier", "head_warmup_images", "unfreeze_every")
        refuse_unheeded(
            self,
            not self.needs_encoder,
            ["encoder", *(f"discriminator.{name}" for name in of_encoder + of_trunk)],
            "with --discriminator.network sngan, which is made from no encoder",
        )
        refuse_unheeded(
            self,
            self.discriminator.mode == "frozen",
            [f"discriminator.{name}" for name in of_trunk],
            "with --discriminator.mode frozen, where the encoder's layers do not train",
        )
        refuse_unheeded(
            self,
            self.optim.penalty_weight == 0 and not self.optim.final_penalty_weight,
            ["optim.final_penalty_weight", "optim.penalty_every"],
            "with --optim.penalty-weight 0",
        )
