"""Feature extractors: the protocol, a base class for frozen networks, and any function or module of the user's.

A score is only as comparable as its features. An extractor therefore carries a fingerprint of its weights and
preprocessing, and computes in plain float32 whatever precision the caller trains in.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, DataError
from nacgen.models.own_network import evaluating
from nacgen.system.precision import Precision, plain_float32

MAX_FEATURES = 32_768  # a covariance of them takes 8.6 GB
RESERVED = ("inception", "digits_classifier")  # names that stand for published weights

FeatureFunction = Callable[
    [UInt8[Tensor, "b 3 h w"]],
    Float[Tensor, "b d"] | tuple[Float[Tensor, "b d"], Float[Tensor, "b k"]],
]


class Features(NamedTuple):
    """Output of an extractor: one feature vector an image, and class logits if it classifies."""

    pooled: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None


@runtime_checkable
class FeatureExtractor(Protocol):
    """Attributes and call that `evaluate` needs of an extractor; any object with them will do."""

    name: str
    score_name: str  # of the Fréchet distance: `fid` for the published FID Inception, else `fd_…`
    fingerprint: str  # of weights and preprocessing, as `"sha256:…"`
    resize: str  # method that brings images to the network's size, or `"none"`
    normalization: str  # formula for a pixel `u` in 0 to 255
    independent_of_nac: bool
    feature_dim: int

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Compute float32 features of images, on any device."""
        ...


class NetworkExtractor(ABC):
    """A frozen network as extractor: one device, evaluation mode, no gradients, float32 unless TF32 is allowed.

    It is deliberately no module: `Accelerator.prepare` would wrap it in autocast.
    """

    resize: str
    normalization: str
    independent_of_nac = True
    precision: Precision = "float32"

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
        self.fingerprint = _sha256(f"{json.dumps(settings)} {digest_tensors(network.state_dict())}")
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Compute float32 features of images, on the extractor's device; refuse others with a `DataError`."""
        check_images(images)
        with torch.inference_mode(), plain_float32(self.device.type, self.precision):
            return self.extract(images.to(self.device).float().contiguous())

    def allow_tf32(self) -> None:
        """Compute in TF32, which is faster and less exact; the fingerprint and the protocol of scores tell.

        Raises:
            ConfigurationError: If the extractor's device has no TF32.
        """
        if not has_tf32(self.device):
            raise ConfigurationError(
                "precision tf32 needs an NVIDIA GPU of the Ampere generation or a later one, got the device "
                f"{self.device}. Leave it out: features are then float32."
            )
        self.precision = "tf32"
        self.fingerprint = _sha256(f"{self.fingerprint} {self.precision}")

    @abstractmethod
    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute features of pixels in 0 to 255."""


class CallableExtractor:
    """A function from uint8 images to features, or to features and class logits, as extractor.

    A module is put into evaluation mode for each call and left as it was. A plain function cannot be looked
    into: change its `version` whenever its values change.

    Args:
        function: Function from uint8 `(b, 3, h, w)` to float `(b, d)`, or to `(b, d)` and `(b, k)`; each row must
            depend on its image alone.
        name: Name in the protocol; the Fréchet distance is called `fd_<name>`.
        feature_dim: Length of a feature vector, `d`.
        version: Text that enters the fingerprint, beside the tensors of a module. A plain function needs it.
        resize: Description of the function's resize, for the record.
        normalization: Formula that the function applies to a pixel `u` in 0 to 255, for the record.
        independent_of_nac: True if the features owe nothing to Neural Activation Coding.
        device: Device that images are moved to before the function sees them.

    Raises:
        ConfigurationError: If the name is no lower-case identifier or belongs to published weights, if
            `feature_dim` is below one or absurdly large, or if a plain function has no version.

    Example:
        >>> def mean_color(images):
        ...     return images.float().mean(dim=(2, 3))
        >>> extractor = CallableExtractor(mean_color, name="mean_color", feature_dim=3, version="1")
        >>> extractor(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)).pooled
        tensor([[7., 7., 7.]])
    """

    def __init__(
        self,
        function: FeatureFunction,
        *,
        name: str,
        feature_dim: int,
        version: str | None = None,
        resize: str = "unknown",
        normalization: str = "unknown",
        independent_of_nac: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED:
            raise ConfigurationError(
                f"name must be lower-case letters, digits and _, and not {' or '.join(RESERVED)}, got {name!r}."
            )
        if not 1 <= feature_dim <= MAX_FEATURES:
            raise ConfigurationError(
                f"feature_dim must lie between 1 and {MAX_FEATURES:,}, got {feature_dim}. Pool feature maps."
            )
        if version is None and not isinstance(function, nn.Module):
            raise ConfigurationError(
                f"version must be given for {name}, a plain function whose weights cannot be seen: scores are "
                "compared by it. Name the weights and the preprocessing in it."
            )
        self.name, self.score_name, self.feature_dim = name, f"fd_{name}", feature_dim
        self.resize, self.normalization = resize, normalization
        self.independent_of_nac = independent_of_nac
        self.function, self.device = function, torch.device(device)
        weights = digest_tensors(function.state_dict()) if isinstance(function, nn.Module) else None
        self.fingerprint = _sha256(json.dumps([name, version, resize, normalization, weights]))

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Compute features in plain float32, without gradients; refuse other images with a `DataError`."""
        check_images(images)
        function = self.function
        mode = evaluating(function) if isinstance(function, nn.Module) else nullcontext()
        with mode, torch.no_grad(), plain_float32(self.device.type):
            answer = function(images.to(self.device).contiguous())
        features, logits = answer if isinstance(answer, tuple) else (answer, None)
        pooled = self._checked(features, "features", len(images), self.feature_dim)
        if logits is None:
            return Features(pooled, None)
        return Features(pooled, self._checked(logits, "logits", len(images), "k"))

    def _checked(self, rows: object, kind: str, n: int, width: int | str) -> Tensor:
        came = repr(rows)
        if isinstance(rows, Tensor):
            has_width = rows.ndim == 2 and width in ("k", rows.shape[1])
            if rows.is_floating_point() and has_width and len(rows) == n:
                return rows.float()
            came = f"{rows.dtype} {tuple(rows.shape)}"
        raise DataError(
            f"{self.name} must give float {kind} ({n}, {width}) for {n} images, got {came}. Pool feature maps "
            "over their pixels and give one row an image."
        )


def has_tf32(device: torch.device) -> bool:
    """Return True for a GPU that multiplies in TF32."""
    return device.type == "cuda" and torch.cuda.is_tf32_supported()


def check_images(images: Tensor) -> None:
    """Raise a `DataError` unless these are uint8 images `(b, 3, h, w)`, of one pixel or more."""
    if (
        images.dtype != torch.uint8
        or images.ndim != 4
        or images.shape[1] != 3
        or 0 in images.shape[1:]
    ):
        advice = "Give images of one size, red, green and blue, as whole numbers from 0 to 255."
        if images.is_floating_point():
            advice = (
                "nacgen.data.pixels.to_uint8 converts floats in [-1, 1]; multiply floats in [0, 1] by 255, round "
                "them and call .to(torch.uint8)."
            )
        elif images.ndim == 3 or images.shape[1:2] == (1,) or images.shape[-1:] == (1,):
            advice = "Repeat a gray channel three times; put a single image into a batch of one."
        raise DataError(
            f"images to score must be uint8 (b, 3, h, w), got {images.dtype} {tuple(images.shape)}. {advice}"
        )


def _sha256(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of names, types, shapes and bytes of all float tensors (so not of counters)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
