"""Options of VAE training. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass
from typing import Literal

from nacgen.errors import ConfigurationError
from nacgen.training.config import TrainingConfig, require_between, require_positive

Init = Literal["nac", "simclr", "supervised", "random", "shuffled"]
CONTROLS = ("random", "shuffled")  # what needs an encoder's architecture alone


@dataclass(frozen=True, kw_only=True)
class PosteriorConfig:
    """How the encoder becomes the VAE's, see nacgen.transplant."""

    mode: Literal["init", "partial", "frozen"] = "init"
    """init: all of it trains; partial: half of its stages is frozen; frozen: only new layers train, which
    read every stage and, through a small branch, the pixels."""
    latent_dim: int = 32
    """Length of the latent vector."""
    trunk_lr_multiplier: float = 1.0
    """Learning rate of the encoder's part relative to everything else's."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "latent_dim", "trunk_lr_multiplier")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The decoder, see nacgen.models.vae.Decoder."""

    likelihood: Literal["gaussian", "logistic_mixture"] = "gaussian"
    """gaussian: of optimal variance; logistic_mixture: ten discretised logistics a pixel."""
    channels: tuple[int, ...] | None = None
    """At 4x4, then after each doubling; None: by the images' size, 96 64 32 for 16x16."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.channels is not None:
            require_positive(self, "channels")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """`distortion + beta * divergence`, in nats; with beta 1 and no free bits the evidence lower bound."""

    beta: float = 1.0
    """Weight of the divergence; 1 makes the loss a bound of the likelihood."""
    warmup_images: int | None = None
    """Images over which beta rises from 0; None: a tenth of the run, 0: none."""
    free_bits: float = 0.0
    """Nats that each latent axis carries without a cost."""
    perceptual_weight: float = 1.0
    """Of --perceptual: nats for each of an image's numbers and unit of distance."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_between(self, 0, math.inf, "beta", "free_bits", "perceptual_weight")
        if self.warmup_images is not None:
            require_between(self, 0, math.inf, "warmup_images")


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Of --adversarial: what tells images from their reconstructions."""

    source: Literal["encoder", "random", "shuffled"] = "encoder"
    """What it starts from, whatever --init is: the weights of --encoder, random or permuted ones."""
    weight: float = 0.75
    """Of the adversarial loss, relative to the gradients' balance at the decoder's last layer."""
    start: float = 0.35
    """Share of the run after which it trains."""
    acts_from: float = 0.5
    """Share of the run after which the decoder feels it."""
    learning_rate: float = 1e-3
    """Of its heads; the trunk's is 0.3 of it."""
    penalty_weight: float = 0.3
    """Gamma of R1 and R2."""
    largest_logit: float = 1_000.0
    """A run stops where logits are larger, on average over a batch, from one checkpoint to the next."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "learning_rate", "largest_logit")
        require_between(self, 0, math.inf, "weight", "penalty_weight")
        require_between(self, 0, 1, "start", "acts_from")
        if self.acts_from < self.start:
            raise ConfigurationError(
                f"acts_from must not precede start, got {self.acts_from} and {self.start}: an untrained "
                "discriminator has nothing to say. Raise --discriminator.felt-from."
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam, with linear warm-up and cosine."""

    learning_rate: float = 2e-3
    """Peak learning rate."""
    warmup_images: int = 640
    """Length of the linear warm-up."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_positive(self, "learning_rate")
        require_between(self, 0, math.inf, "warmup_images")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """How the model is measured."""

    extractor: Literal["digits_classifier", "classifier", "inception"] | None = None
    """Features that images are compared by: the released classifier's (None, for digits), those of a
    classifier of your own, or Inception's, which give FID."""
    weights: str | None = None
    """A classifier's folder, or the file of the FID Inception's weights."""
    num_samples: int = 2_000
    """Images to generate for a score."""
    every: int = 6_400
    """Images seen between two scores."""
    bound_images: int = 50
    """Held-out images that the importance-weighted bounds are measured on, a thousand samples each."""
    components: int = 10
    """Of the Gaussian mixture that is fitted to the latents at the end."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        require_between(self, 2, math.inf, "num_samples")
        require_positive(self, "every", "bound_images", "components")


@dataclass(frozen=True, kw_only=True)
class VAEConfig(TrainingConfig):
    """Options of VAE training. Each switch is one thing: init, posterior.mode, perceptual, adversarial."""

    encoder: str | None = None
    """Folder or Hub id of an encoder; the control arms take their architecture from it.
    None: checkpoints/digits-nac, for digits."""
    init: Init = "nac"
    """What the VAE's encoder starts from: the weights of an encoder that was pretrained so, or random or
    permuted ones."""
    perceptual: Literal["none", "nac", "random", "shuffled"] = "none"
    """Whether reconstructions are compared by an encoder's features too, and which weights it has."""
    perceptual_encoder: str | None = None
    """Folder or Hub id of a NAC encoder for --perceptual. None: the encoder."""
    adversarial: bool = False
    """Whether a discriminator judges reconstructions (VAE+GAN)."""
    posterior: PosteriorConfig = PosteriorConfig()
    decoder: DecoderConfig = DecoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optim: OptimConfig = OptimConfig()
    score: ScoreConfig = ScoreConfig()

    @property
    def warmup_images(self) -> int:
        """Images over which beta rises."""
        given = self.objective.warmup_images
        return self.total_images // 10 if given is None else given

    def check_networks(self) -> None:
        """Raise unless encoder and score fit the images.

        Raises:
            ConfigurationError: Images other than the digits need networks that were trained on them, and so
                does an arm whose encoder is not released; the message says how to get these.
        """
        if (
            self.encoder is None
            and self.dataset == "digits"
            and self.init in ("simclr", "supervised")
        ):
            raise ConfigurationError(
                f"--init {self.init} needs an encoder that was pretrained so, but --encoder is not given. Run "
                f"recipes/pretrain_nac.py --objective {self.init} --run-dir A, then give --encoder A/encoder."
            )
        if self.dataset != "digits" and not (self.encoder and self.score.extractor):
            raise ConfigurationError(
                "--encoder and --score.extractor must be given for images other than the digits, got "
                f"{self.encoder} and {self.score.extractor} for {self.dataset}. With the same --dataset, "
                "--data-dir and --data.image-size, in this order: 1. recipes/pretrain_nac.py --run-dir A, then "
                "give --encoder A/encoder. 2. For the score recipes/train_classifier.py --run-dir B, which needs "
                "labels, then give --score.extractor classifier --score.weights B/classifier; or give "
                "--score.extractor inception, and --score.weights FILE where its weights cannot be downloaded."
            )
