"""Feature extractors: uint8 images in, features out, with everything that decides their values.

A score is only as comparable as its features. An extractor therefore carries a fingerprint of its
weights and preprocessing, and computes in plain float32 whatever precision the caller trains in.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nacgen.errors import CheckpointError, ConfigurationError, DataError
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder
from nacgen.models.precision import plain_float32

DIGITS_CLASSIFIER = "digits_classifier"
DIGITS_FINGERPRINT = "sha256:c997a64152c7963c331d974e1e80d9bfcdf92b875b883e40914de4f1c464ba05"


class Features(NamedTuple):
    """What an extractor gives: one feature vector an image, and class logits where it has them."""

    pooled: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None


@runtime_checkable
class FeatureExtractor(Protocol):
    """What `evaluate` asks of an extractor; any object of this shape will do.

    Attributes:
        name: As in the protocol of a score.
        score_name: Of the Fréchet distance in these features: `fid` for the FID Inception with its
            published weights, `fd_<name>` for all others.
        fingerprint: `"sha256:…"` of weights and preprocessing.
        resize: How images reach the network's size, `"none"` if they do not.
        normalisation: What becomes of a pixel `u` in 0 to 255.
        independent_of_nac: Whether the features owe nothing to Neural Activation Coding.
        feature_dim: Length of a feature vector.
    """

    name: str
    score_name: str
    fingerprint: str
    resize: str
    normalisation: str
    independent_of_nac: bool
    feature_dim: int

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Features of images, float32, on any device."""
        ...


class NetworkExtractor(ABC):
    """A frozen network as extractor: one device, evaluation mode, no gradients, plain float32.

    Deliberately no module: `Accelerator.prepare` would wrap it in autocast.

    Args:
        network: Moved to the device and frozen; not to be trained on.
        name: As in the protocol of a score.
        score_name: Of the Fréchet distance in these features.
        feature_dim: Length of a feature vector.
        device: Where it runs.
    """

    resize: str
    normalisation: str
    independent_of_nac = True

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        score_name: str,
        feature_dim: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name, self.score_name, self.feature_dim = name, score_name, feature_dim
        settings = [type(network).__name__, self.resize, self.normalisation, "float32"]
        parts = [json.dumps(settings), digest_tensors(network.state_dict())]
        self.fingerprint = f"sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Features of images.

        Args:
            images: 0 to 255, on any device.

        Returns:
            Float32 features, on the extractor's device.

        Raises:
            DataError: The images are not uint8 `(b, 3, h, w)`, or of a size that does not fit.
        """
        check_images(images)
        with torch.inference_mode(), plain_float32(self.device.type):
            return self.extract(images.to(self.device).float().contiguous())

    @abstractmethod
    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Features of pixels in 0 to 255."""


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
    normalisation = "u / 127.5 - 1"

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
                f"({', '.join(EXTRACTORS)})."
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
    normalisation = "u / 127.5 - 1, then the encoder's own"
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


def build_extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    resize: str | None = None,
    device: torch.device | str = "cpu",
) -> FeatureExtractor:
    """Build an extractor by name.

    Args:
        name: `"digits_classifier"` (embedded), `"classifier"` (one of your own), `"inception"` (the FID
            Inception), `"dinov2"` or `"nac_encoder"`.
        weights: The folder or Hub id of a classifier or an encoder, or a file of the FID Inception's or DINOv2's
            weights. Absent: the released folder, or torch's hub cache and then a download; `"classifier"`,
            `"nac_encoder"` and `"dinov2"` need it.
        resize: Of `"inception"`: `"pytorch_fid"` (when absent), `"tf1"` or `"clean"`.
        device: Where it runs.

    Returns:
        The extractor.

    Raises:
        ConfigurationError: The name or the resize is unknown, a resize is given to another extractor than
            Inception, or weights are missing that must be given.
        CheckpointNotFoundError: The weights are not there; the message says how to get them.
        CheckpointError: The weights do not fit, are damaged, or are not those of the name.
    """
    if name not in EXTRACTORS:
        raise ConfigurationError(f"extractor must be one of {', '.join(EXTRACTORS)}, got {name!r}.")
    if resize is not None:
        if name != "inception":
            raise ConfigurationError(
                f"resize can be chosen for inception only, got {resize!r} for {name}. Leave it out."
            )
        return _inception(weights, device, resize)
    return EXTRACTORS[name](weights, device)


def check_images(images: Tensor) -> None:
    """Raise unless these are uint8 images `(b, 3, h, w)`.

    Args:
        images: What is to be scored.

    Raises:
        DataError: Another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(
            f"images to score must be uint8 (b, 3, h, w), got {images.dtype} "
            f"{tuple(images.shape)}. nacgen.metrics.to_uint8 converts floats in [-1, 1]; colours "
            "come before height and width."
        )


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of all float tensors, in the order of names.

    Args:
        tensors: A state; counters in it do not matter to features and are passed over.

    Returns:
        Hexadecimal digest.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _digits_classifier(
    weights: str | Path | None, device: torch.device | str
) -> ClassifierExtractor:
    folder = weights or "checkpoints/digits-classifier"
    extractor = ClassifierExtractor(ImageClassifier.from_pretrained(folder), device=device)
    if extractor.name != DIGITS_CLASSIFIER:
        raise CheckpointError(
            f"the extractor {DIGITS_CLASSIFIER} has the released weights, {DIGITS_FINGERPRINT}, but {folder} "
            f"holds others, {extractor.fingerprint}. Use the extractor classifier for a classifier of your own."
        )
    return extractor


def _classifier(weights: str | Path | None, device: torch.device | str) -> ClassifierExtractor:
    if weights is None:
        raise ConfigurationError(
            "the extractor classifier needs the folder of a classifier, got no weights. Train one with "
            "recipes/train_classifier.py and give it as weights (--score.weights RUN/classifier)."
        )
    return ClassifierExtractor(ImageClassifier.from_pretrained(weights), device=device)


def _nac_encoder(weights: str | Path | None, device: torch.device | str) -> EncoderExtractor:
    if weights is None:
        raise ConfigurationError(
            "the extractor nac_encoder needs the folder of an encoder, got no weights. Give one as weights, "
            "checkpoints/digits-nac say."
        )
    return EncoderExtractor(NACEncoder.from_pretrained(weights), device=device)


def _inception(
    weights: str | Path | None, device: torch.device | str, resize: str = "pytorch_fid"
) -> FeatureExtractor:
    from nacgen.metrics.inception import load_inception  # imports torchvision, which is slow

    return load_inception(weights, device, resize)


def _dinov2(weights: str | Path | None, device: torch.device | str) -> FeatureExtractor:
    from nacgen.metrics.dinov2 import load_dinov2

    return load_dinov2(weights, device)


EXTRACTORS: dict[str, Callable[[str | Path | None, torch.device | str], FeatureExtractor]] = {
    DIGITS_CLASSIFIER: _digits_classifier,
    "classifier": _classifier,
    "inception": _inception,
    "dinov2": _dinov2,
    "nac_encoder": _nac_encoder,
}
