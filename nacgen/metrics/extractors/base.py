"""Feature extractors: uint8 images in, features out, with everything that decides their values.

A score is only as comparable as its features. An extractor therefore carries a fingerprint of its
weights and preprocessing, and computes in plain float32 whatever precision the caller trains in.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nacgen.errors import DataError
from nacgen.system.precision import plain_float32

EXTRACTOR_NAMES = ("digits_classifier", "classifier", "inception", "dinov2", "nac_encoder")


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
    normalization: str
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
    normalization: str
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
        settings = [type(network).__name__, self.resize, self.normalization, "float32"]
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
