"""Extractors on the project's own networks: image classifiers and NAC encoders."""

import torch
from jaxtyping import Float
from torch import Tensor

from nacgen.errors import DataError
from nacgen.metrics.extractors.base import EXTRACTOR_NAMES, Features, NetworkExtractor
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder

DIGITS_CLASSIFIER = "digits_classifier"


DIGITS_FINGERPRINT = "sha256:c997a64152c7963c331d974e1e80d9bfcdf92b875b883e40914de4f1c464ba05"


class ClassifierExtractor(NetworkExtractor):
    """Penultimate features and logits of a classifier that was trained by a recipe of ours.

    Scores are called `fd_digits_classifier` with the weights that are released under this name and with no
    others; else `fd_<dataset>_classifier` by what the classifier was trained on (`fd_own_digits_classifier` for
    digits), or `fd_classifier` where it does not say. The fingerprint tells classifiers of one name apart.

    Args:
        classifier: The classifier.
        device: Where it runs.
    """

    resize = "none"
    normalization = "u / 127.5 - 1"

    def __init__(self, classifier: ImageClassifier, *, device: torch.device | str = "cpu") -> None:
        name = "classifier" if classifier.dataset is None else f"{classifier.dataset}_classifier"
        if name == DIGITS_CLASSIFIER:
            name = f"own_{name}"
        super().__init__(
            classifier,
            name=name,
            score_name=f"fd_{name}",
            feature_dim=classifier.feature_dim,
            device=device,
        )
        if self.fingerprint == DIGITS_FINGERPRINT:
            self.name, self.score_name = DIGITS_CLASSIFIER, f"fd_{DIGITS_CLASSIFIER}"
        self.classifier = classifier

    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of pixels in 0 to 255, of the classifier's own size."""
        size = self.classifier.image_size
        if pixels.shape[-2:] != (size, size):
            raise DataError(
                f"{self.name} looks at images of {size}x{size} px and does not resize, got "
                f"{pixels.shape[-2]}x{pixels.shape[-1]}. Train a classifier on images of this size with "
                "recipes/train_classifier.py, or use another extractor "
                f"({', '.join(EXTRACTOR_NAMES)})."
            )
        features = self.classifier.features(pixels / 127.5 - 1)
        return Features(features, self.classifier.head(features))


class EncoderExtractor(NetworkExtractor):
    """Features of a NAC encoder, which cannot judge what Neural Activation Coding brings.

    Args:
        encoder: The encoder; it is frozen.
        device: Where it runs.
    """

    resize = "none"
    normalization = "u / 127.5 - 1, then the encoder's own"
    independent_of_nac = False

    def __init__(self, encoder: NACEncoder, *, device: torch.device | str = "cpu") -> None:
        name = "nac_encoder"
        feature_dim = encoder.feature_dim
        super().__init__(
            encoder, name=name, score_name=f"fd_{name}", feature_dim=feature_dim, device=device
        )
        self.encoder = encoder

    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of pixels in 0 to 255, of any size that the backbone takes."""
        return Features(self.encoder.features(pixels / 127.5 - 1), None)
