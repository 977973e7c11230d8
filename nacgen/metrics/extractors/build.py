"""Extractors by name."""

from collections.abc import Callable
from pathlib import Path

import torch

from nacgen.errors import CheckpointError, ConfigurationError
from nacgen.metrics.extractors.base import EXTRACTOR_NAMES, FeatureExtractor
from nacgen.metrics.extractors.networks import (
    DIGITS_CLASSIFIER,
    DIGITS_FINGERPRINT,
    ClassifierExtractor,
    EncoderExtractor,
)
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder


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
        raise ConfigurationError(
            f"extractor must be one of {', '.join(EXTRACTOR_NAMES)}, got {name!r}."
        )
    if resize is not None:
        if name != "inception":
            raise ConfigurationError(
                f"resize can be chosen for inception only, got {resize!r} for {name}. Leave it out."
            )
        return _inception(weights, device, resize)
    return EXTRACTORS[name](weights, device)


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
    from nacgen.metrics.extractors.inception import (
        load_inception,  # imports torchvision, which is slow
    )

    return load_inception(weights, device, resize)


def _dinov2(weights: str | Path | None, device: torch.device | str) -> FeatureExtractor:
    from nacgen.metrics.extractors.dinov2 import load_dinov2

    return load_dinov2(weights, device)


EXTRACTORS: dict[str, Callable[[str | Path | None, torch.device | str], FeatureExtractor]] = {
    DIGITS_CLASSIFIER: _digits_classifier,
    "classifier": _classifier,
    "inception": _inception,
    "dinov2": _dinov2,
    "nac_encoder": _nac_encoder,
}
