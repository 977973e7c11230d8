"""Options of VAE training. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass
from typing import Literal

from nacgen.training import generative
from nacgen.training.config import refuse_unheeded, require_between, require_positive


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig:
    """Options of the VAE's encoder, see nacgen.transplant."""

    mode: Literal["init", "partial", "frozen"] = "init"
    """Training of the encoder's layers. init: all train; partial: half of the stages is frozen; frozen: only new
    layers train, which read every stage and, through a small branch, the pixels."""
    latent_dim: int = 32
    """Length of the latent vector."""

    def __post_init__(self) -> None:
        require_positive(self, "latent_dim")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Options of the decoder, see nacgen.models.vae.Decoder."""

    likelihood: Literal["gaussian", "logistic_mixture"] = "gaussian"
    """Likelihood of pixels. gaussian: with optimal variance; logistic_mixture: ten discretized logistics."""
    channels: tuple[int, ...] | None = None
    """Number of channels at 4x4 and after each doubling. None: by the size of images, 96 64 32 for 16x16."""

    def __post_init__(self) -> None:
        require_positive(self, "channels")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """`distortion + beta * divergence`, in nats; with beta 1 and no free bits the evidence lower bound."""

    beta: float = 1.0
    """Weight of the divergence; 1 makes the loss a bound of the likelihood."""
    warmup_images: int | None = None
    """Images over which beta rises from 0. None: a tenth of the run; 0: no rise."""
    free_bits: float = 0.0
    """Nats of divergence that each latent axis has without cost."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual loss, in nats for each number of an image and unit of distance."""

    def __post_init__(self) -> None:
        require_between(
            self, 0, math.inf, "beta", "free_bits", "perceptual_weight", "warmup_images"
        )


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Options of the discriminator of --adversarial, which tells images from reconstructions."""

    source: Literal["encoder", "random", "shuffled"] = "encoder"
    """Weights to start from, independent of --init: those of --encoder, random, or permuted ones."""
    weight: float = 0.75
    """Weight of the adversarial loss, relative to the gradients' balance at the decoder's last layer."""

    def __post_init__(self) -> None:
        require_between(self, 0, math.inf, "weight")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Options of Adam, with linear warm-up and cosine."""

    learning_rate: float = 2e-3
    """Peak learning rate."""
    warmup_images: int = 640
    """Length of the linear warm-up."""

    def __post_init__(self) -> None:
        require_positive(self, "learning_rate")
        require_between(self, 0, math.inf, "warmup_images")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(generative.ScoreConfig):
    """Options of scores of the model."""

    every: int = 6_400
    """Images seen between two scores."""
    bound_images: int = 50
    """Held-out images for the importance-weighted bounds, with a thousand samples each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "bound_images")


@dataclass(frozen=True, kw_only=True)
class VAEConfig(generative.InitializedConfig):
    """Options of VAE training. Each switch is one thing: init, posterior.mode, perceptual, adversarial."""

    RECIPE = "train_vae"
    score: ScoreConfig = ScoreConfig()
    perceptual: Literal["none", "nac", "random", "shuffled"] = "none"
    """Weights of an encoder whose features compare reconstructions with images, too; none: only pixels."""
    perceptual_encoder: str | None = None
    """Folder or Hub id of a NAC encoder for --perceptual. None: that of --encoder."""
    adversarial: bool = False
    """Train a discriminator of reconstructions (VAE+GAN)."""
    posterior: PosteriorConfig = PosteriorConfig()
    decoder: DecoderConfig = DecoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unheeded(self, not self.adversarial, ["discriminator"], "without --adversarial")
        no_distance, no_beta = self.perceptual == "none", self.objective.beta == 0
        of_distance = ["perceptual_encoder", "objective.perceptual_weight"]
        refuse_unheeded(self, no_distance, of_distance, "without --perceptual")
        refuse_unheeded(self, no_beta, ["objective.warmup_images"], "with --objective.beta 0")

    @property
    def warmup_images(self) -> int:
        """Images over which beta rises."""
        given = self.objective.warmup_images
        return self.total_images // 10 if given is None else given
