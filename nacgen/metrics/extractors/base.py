"""Feature extractors: the protocol, and a base class for frozen networks.

A score is only as comparable as its features. An extractor therefore carries a fingerprint of its weights and
preprocessing, and computes in plain float32 whatever precision the caller trains in.
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


class Features(NamedTuple):
    """Output of an extractor: one feature vector an image, and class logits if it classifies.

    Example:
        >>> Features(torch.zeros(2, 64), None).pooled.shape
        torch.Size([2, 64])
    """

    pooled: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None


@runtime_checkable
class FeatureExtractor(Protocol):
    """Attributes and call that `evaluate` needs of an extractor; any object with them will do.

    Example:
        >>> isinstance(nacgen.metrics.build_extractor("digits_classifier"), FeatureExtractor)
        True
    """

    name: str
    score_name: (
        str  # of the Fréchet distance: `fid` for the published FID Inception, else `fd_<name>`
    )
    fingerprint: str  # of weights and preprocessing, as `"sha256:…"`
    resize: str  # method that brings images to the network's size, or `"none"`
    normalization: str  # formula for a pixel `u` in 0 to 255
    independent_of_nac: bool
    feature_dim: int

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Compute float32 features of images, on any device."""
        ...


class NetworkExtractor(ABC):
    """A frozen network as extractor: one device, evaluation mode, no gradients, plain float32.

    It is deliberately no module: `Accelerator.prepare` would wrap it in autocast.
    """

    resize: str
    normalization: str
    independent_of_nac = True

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        feature_dim: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name, self.score_name, self.feature_dim = name, f"fd_{name}", feature_dim
        settings = [type(network).__name__, self.resize, self.normalization, "float32"]
        parts = [json.dumps(settings), digest_tensors(network.state_dict())]
        self.fingerprint = f"sha256:{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Compute float32 features of images, on the extractor's device; refuse others with a `DataError`."""
        check_images(images)
        with torch.inference_mode(), plain_float32(self.device.type):
            return self.extract(images.to(self.device).float().contiguous())

    @abstractmethod
    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute features of pixels in 0 to 255."""


def check_images(images: Tensor) -> None:
    """Raise a `DataError` unless these are uint8 images `(b, 3, h, w)`."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise DataError(
            f"images to score must be uint8 (b, 3, h, w), got {images.dtype} {tuple(images.shape)}. "
            "nacgen.data.pixels.to_uint8 converts floats in [-1, 1]."
        )


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of names, types, shapes and bytes of all float tensors (so not of counters)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
