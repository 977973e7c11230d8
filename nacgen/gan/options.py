"""Options of GAN training. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass
from typing import Literal

from nacgen.errors import ConfigurationError
from nacgen.system.own_parts import check_part
from nacgen.training.config import refuse_unheeded, require_between, require_positive
from nacgen.training.generative import InitializedConfig


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Options of the discriminator, see nacgen.transplant."""

    network: str = "encoder"
    """Architecture. encoder: a transplanted encoder; sngan: the discriminator of Miyato et al. 2018, which
    starts from random weights; package.module:function: what it returns, a module of your own."""
    mode: Literal["init", "partial", "frozen"] = "init"
    """Training of the encoder's layers. init: all train; partial: half of the stages is frozen; frozen: only
    heads train, one on every stage and one on a small branch that sees the pixels."""
    head: Literal["linear", "basis", "projected"] = "basis"
    """Kind of heads. linear: on mean features; basis: on weighted pixels; projected: on feature maps that are
    mixed at random over channels and scales, each halved down to 4 px."""
    return_nodes: tuple[str, ...] | None = None
    """Stages that get a head. None: the last, or all where the encoder is frozen."""
    spectral_norm: Literal["none", "heads", "cap"] = "none"
    """Layers with spectral normalization. heads: new layers; cap: new layers, and the norms of the encoder's
    convolutions stay at or below their first values."""
    trunk_lr_multiplier: float = 0.3
    """Learning rate of the encoder's layers relative to the heads."""

    def __post_init__(self) -> None:
        check_part("discriminator.network", self.network, ("encoder", "sngan"))
        require_positive(self, "trunk_lr_multiplier")


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Options of the generator, see nacgen.models.gan.Generator."""

    network: str = "residual"
    """Architecture. residual: that of the options below; package.module:function: what it returns, a module of
    your own."""
    latent_dim: int = 64
    """Length of the latent vector."""
    channels: tuple[int, ...] | None = None
    """Number of channels at 4x4 and after each doubling. None: by the size of images, 96 64 32 for 16x16."""
    block: Literal["small", "sngan"] = "small"
    """Kind of residual blocks. small: with GroupNorm; sngan: those of Miyato et al. 2018, with BatchNorm and
    four times the work."""

    def __post_init__(self) -> None:
        check_part("generator.network", self.network, ("residual",))
        require_positive(self, "latent_dim", "channels")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Options of Adam for both networks, of losses and of penalties."""

    loss: Literal["rpgan", "hinge", "non-saturating"] = "rpgan"
    """Adversarial loss. rpgan: relativistic pairing; hinge; non-saturating: logistic."""
    learning_rate: float = 1e-3
    """Learning rate of the generator and of the discriminator's heads."""
    schedule: Literal["constant", "linear"] = "constant"
    """Schedule of the learning rate. linear: it falls to 0 at the end."""
    beta2: float = 0.99
    """Beta2 of Adam, whose beta1 is 0."""
    discriminator_steps: int = 1
    """Steps of the discriminator for one step of the generator; each takes a batch of its own."""
    micro_batches: int = 1
    """Parts in which a batch passes the networks, for less memory; the gradients are those of the whole."""
    penalty_weight: float = 0.3
    """Gamma of R1 on real images and R2 on generated ones, taken in every fourth step; 0 for no penalty."""
    final_penalty_weight: float | None = None
    """Gamma at the end, reached along half a cosine. None: as at the start."""
    ema_half_life: float = 1_280
    """Half-life of the generator's moving average, in images."""

    def __post_init__(self) -> None:
        positive = ("learning_rate", "discriminator_steps", "micro_batches", "ema_half_life")
        require_positive(self, *positive)
        if not 0 <= self.beta2 < 1:
            raise ConfigurationError(
                f"beta2 must be 0 or more and below 1, got {self.beta2}. Change --optim.beta2."
            )
        require_between(self, 0, math.inf, "penalty_weight", "final_penalty_weight")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Options of augmentation of real and generated images before the discriminator."""

    translation: float = 0.125
    """Largest shift of DiffAugment relative to the images' size; 0 for none."""
    cutout: float = 0.0
    """Side of DiffAugment's blank square relative to the images' size; 0 for none."""
    color: bool = False
    """Change colors by DiffAugment, too."""
    adaptive: bool = False
    """Use adaptive augmentation (ADA) as well: flips, turns, stretches and colors, whose probability grows if the
    discriminator overfits. For little data; not for digits, which flips and turns change into others."""
    function: str | None = None
    """Augmentation of your own, package.module:function, applied after the others. It takes and returns images
    (b, 3, h, w) in [-1, 1]."""

    def __post_init__(self) -> None:
        require_between(self, 0, 1, "translation", "cutout")
        check_part("augment.function", self.function, ())


@dataclass(frozen=True, kw_only=True)
class GANConfig(InitializedConfig):
    """Options of GAN training."""

    conditional: bool = False
    """Give both networks the images' classes."""
    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()

    @property
    def needs_encoder(self) -> bool:
        """True where the discriminator is made from an encoder; one of your own may be."""
        network = self.discriminator.network
        return network == "encoder" or (network != "sngan" and self.encoder is not None)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_sngan = self.discriminator.network == "sngan"
        if is_sngan and self.init != "random":
            raise ConfigurationError(
                f"discriminator.network sngan starts from no encoder, got init {self.init}. Give "
                "--init random, or --discriminator.network encoder."
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
        of_encoder = ("mode", "head", "return_nodes", "spectral_norm", "trunk_lr_multiplier")
        reason = "with --discriminator.network sngan, which is made from no encoder"
        refuse_unheeded(self, is_sngan, ["encoder"], reason)
        is_whole = self.discriminator.network != "encoder"
        reason = f"with --discriminator.network {self.discriminator.network}"
        refuse_unheeded(self, is_whole, [f"discriminator.{name}" for name in of_encoder], reason)
        is_whole = self.generator.network != "residual"
        of_residual = ["generator.channels", "generator.block"]
        reason = f"with --generator.network {self.generator.network}"
        refuse_unheeded(self, is_whole, of_residual, reason)
        refuse_unheeded(
            self,
            self.discriminator.mode == "frozen",
            ["discriminator.trunk_lr_multiplier"],
            "with --discriminator.mode frozen, where the encoder's layers do not train",
        )
        no_penalty = self.optim.penalty_weight == 0 and not self.optim.final_penalty_weight
        reason = "with --optim.penalty-weight 0"
        refuse_unheeded(self, no_penalty, ["optim.final_penalty_weight"], reason)
