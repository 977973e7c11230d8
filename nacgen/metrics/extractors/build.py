"""Extractors by name, and those on the project's own networks: image classifiers and NAC encoders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import CheckpointError, ConfigurationError, DataError
from nacgen.metrics.extractors.base import FeatureExtractor, Features, NetworkExtractor
from nacgen.metrics.extractors.dinov2 import load_dinov2
from nacgen.metrics.extractors.efficientnet import load_efficientnet
from nacgen.metrics.extractors.inception import load_inception
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder
from nacgen.system.own_parts import call_with_known, check_part, find_part, is_own
from nacgen.system.precision import Precision

RELEASED = {  # name: fingerprint of the classifier in checkpoints/, and its folder there
    "digits_classifier": (
        "sha256:c997a64152c7963c331d974e1e80d9bfcdf92b875b883e40914de4f1c464ba05",
        "digits-classifier",
    ),
    "fashion_classifier": (
        "sha256:c4997e2d60b8e84f9ab72861239a693167bf2bd7a4c8013515ed2a7543dd0301",
        "fashion-classifier",
    ),
}
# Told where EfficientNet-Lite0 takes the place of Inception.
INSTEAD = "scores are fd_efficientnet_lite0, no FID, since Inception's weights are not at hand."
# The folder that such an extractor needs, and the advice to someone who gave none.
WITHOUT_DEFAULT = {
    "nac_encoder": "an encoder, got no weights. Give one, for example checkpoints/digits-nac",
    "classifier": "a classifier, got no weights. Train one with nacgen train-classifier and give it as "
    "weights (--score.weights RUN/classifier)",
}


def build_extractor(
    name: str,
    *,
    weights: str | Path | None = None,
    resize: str | None = None,
    dims: int | None = None,
    precision: Precision = "float32",
    device: torch.device | str = "cpu",
    given: object = None,
) -> FeatureExtractor:
    """Build an extractor by name.

    Args:
        name: `"digits_classifier"` or `"fashion_classifier"` (embedded), `"classifier"` (one of your own),
            `"inception"` (the FID Inception), `"efficientnet_lite0"` (a small judge of photographs, extra
            `judge`), `"dinov2"` or `"nac_encoder"`; or `"package.module:function"`: an extractor of your own, or
            a function that returns one, which is called with those of `weights` and `device` that it takes.
        weights: Folder or Hub id of a classifier or an encoder, or file of the weights of the others. By default
            the released folder, the installed package, or torch's hub cache and then a download; `"classifier"`,
            `"nac_encoder"` and `"dinov2"` have no default.
        resize: Resize of `"inception"`: `"pytorch_fid"` (the default), `"tf1"` or `"clean"`.
        dims: Layer of `"inception"` by its number of features, as in pytorch-fid: 64, 192, 768 or 2048. The last
            is the default, and the only one that gives an FID.
        precision: `"tf32"` is faster on a recent NVIDIA GPU and less exact; scores of it compare with one another
            only.
        device: Device that it runs on.
        given: Extractor of your own that was handed over in Python, for a name that says so.

    Raises:
        ConfigurationError: If the name, the resize, the layer or the precision is unknown, if resize or layer are
            given to another extractor than Inception, if weights are missing that have no default, or if the
            device has no TF32.
        CheckpointNotFoundError: If the weights are not there; the message says how to get them.
        CheckpointError: If the weights do not fit, are damaged, or are not those of the name.

    Example:
        >>> extractor = build_extractor("digits_classifier")
        >>> images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
        >>> extractor(images).pooled.shape
        torch.Size([2, 64])
    """
    check_part("extractor", name, EXTRACTORS)
    if precision not in get_args(Precision):
        raise ConfigurationError(
            f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}. Use float32 to "
            "compare with other scores."
        )
    chosen = {k: v for k, v in {"resize": resize, "dims": dims}.items() if v is not None}
    for option, value in chosen.items():
        if name != "inception":
            raise ConfigurationError(
                f"{option} can be chosen for inception only, got {value!r} for {name}. Leave it out."
            )
    if is_own(name):
        return _own(name, given, weights, precision, device)
    extractor = EXTRACTORS[name](weights, device, **chosen)
    if precision == "tf32":
        extractor.allow_tf32()
    return extractor


def _own(
    name: str,
    given: object,
    weights: str | Path | None,
    precision: Precision,
    device: torch.device | str,
) -> FeatureExtractor:
    """Return an extractor of the user's own, or what their function makes of weights and device."""
    part = find_part("extractor", name, given)
    if isinstance(part, FeatureExtractor | nn.Module):
        extractor: Any = part
    else:
        path = None if weights is None else str(weights)
        extractor = call_with_known(part, weights=path, device=device) if callable(part) else part
    if not isinstance(extractor, FeatureExtractor):
        raise ConfigurationError(
            f"extractor {name} must be or return a FeatureExtractor, got {extractor!r:.100}. Wrap a network or a "
            "function in nacgen.metrics.CallableExtractor."
        )
    if getattr(extractor, "precision", "float32") != precision:
        raise ConfigurationError(
            f"precision is that of the extractor of your own, {name}, got {precision}. Leave it out, and "
            "choose it where you build the extractor."
        )
    return extractor


def _load_encoder(weights: str | Path | None, device: torch.device | str) -> NetworkExtractor:
    weights = _required("nac_encoder", weights)
    return EncoderExtractor(NACEncoder.from_pretrained(weights), device=device)


def _load_classifier(
    name: str, weights: str | Path | None, device: torch.device | str
) -> NetworkExtractor:
    if name not in RELEASED:
        classifier = ImageClassifier.from_pretrained(_required(name, weights))
        return ClassifierExtractor(classifier, device=device)
    fingerprint, folder = RELEASED[name]
    weights = weights or f"checkpoints/{folder}"
    extractor = ClassifierExtractor(ImageClassifier.from_pretrained(weights), device=device)
    if extractor.name != name:
        raise CheckpointError(
            f"the extractor {name} has the released weights, {fingerprint}, but {weights} holds others, "
            f"{extractor.fingerprint}. Use the extractor classifier for a classifier of your own."
        )
    return extractor


def _required(name: str, weights: str | Path | None) -> str | Path:
    if weights is None:
        raise ConfigurationError(
            f"the extractor {name} needs the folder of {WITHOUT_DEFAULT[name]}."
        )
    return weights


# Loaders by name, in the order of messages.
EXTRACTORS: dict[str, Callable[..., NetworkExtractor]] = {
    **{name: partial(_load_classifier, name) for name in (*RELEASED, "classifier")},
    "inception": load_inception,
    "efficientnet_lite0": load_efficientnet,
    "dinov2": load_dinov2,
    "nac_encoder": _load_encoder,
}


class ClassifierExtractor(NetworkExtractor):
    """Penultimate features and logits of an image classifier.

    Scores are called `fd_digits_classifier` and `fd_fashion_classifier` with the weights that are released under
    these names and with no others; else `fd_<dataset>_classifier` after the dataset the classifier was trained on
    (`fd_own_digits_classifier` for digits), or `fd_classifier` where it does not say. The fingerprint tells
    classifiers of one name apart.

    Example:
        >>> from nacgen.models.classifier import ImageClassifier
        >>> ClassifierExtractor(ImageClassifier(dataset="cifar10")).score_name
        'fd_cifar10_classifier'
    """

    resize = "none"
    normalization = "u / 127.5 - 1"

    def __init__(self, classifier: ImageClassifier, *, device: torch.device | str = "cpu") -> None:
        name = "_".join([*(classifier.dataset or "").replace("-", "_").split(), "classifier"])
        if name in RELEASED:
            name = f"own_{name}"
        super().__init__(classifier, name=name, feature_dim=classifier.feature_dim, device=device)
        for released, (fingerprint, _) in RELEASED.items():
            if self.fingerprint == fingerprint:
                self.name, self.score_name = released, f"fd_{released}"
        self.classifier = classifier

    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute features of pixels in 0 to 255, of the classifier's own size."""
        size = self.classifier.image_size
        if pixels.shape[-2:] != (size, size):
            raise DataError(
                f"{self.name} looks at images of {size}x{size} px and does not resize, got "
                f"{pixels.shape[-2]}x{pixels.shape[-1]}. Train a classifier on images of this size with "
                f"nacgen train-classifier, or use another extractor ({', '.join(EXTRACTORS)})."
            )
        features = self.classifier.features(pixels / 127.5 - 1)
        return Features(features, self.classifier.head(features))


class EncoderExtractor(NetworkExtractor):
    """Features of a NAC encoder, which cannot show what Neural Activation Coding brings.

    Example:
        >>> EncoderExtractor(nacgen.NACEncoder()).score_name
        'fd_nac_encoder'
    """

    resize = "none"
    normalization = "u / 127.5 - 1, then the encoder's own"
    independent_of_nac = False

    def __init__(self, encoder: NACEncoder, *, device: torch.device | str = "cpu") -> None:
        super().__init__(
            encoder, name="nac_encoder", feature_dim=encoder.feature_dim, device=device
        )
        self.encoder = encoder

    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute features of pixels in 0 to 255, of any size that the backbone takes."""
        return Features(self.encoder.features(pixels / 127.5 - 1), None)
