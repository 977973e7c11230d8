"""Any function of the user's as extractor."""

import hashlib
import json
import re
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, DataError
from nacgen.metrics.extractors.base import Features, check_images, digest_tensors
from nacgen.system.precision import plain_float32

RESERVED = ("inception", "digits_classifier")  # names that stand for published weights

FeatureFunction = Callable[
    [UInt8[Tensor, "b 3 h w"]],
    Float[Tensor, "b d"] | tuple[Float[Tensor, "b d"], Float[Tensor, "b k"]],
]


class CallableExtractor:
    """A function from uint8 images to features, or to features and class logits, as extractor.

        extractor = CallableExtractor(vgg_features, name="vgg16", feature_dim=4096, version="torchvision 1")

    A module is put into evaluation mode for each call and left as it was. Nothing can be told of a plain
    function but what `version` says: change it whenever the function's values change.

    Args:
        function: Uint8 `(b, 3, h, w)` to float `(b, d)`, or to `(b, d)` and `(b, k)`; each row must depend on its
            image alone.
        name: As in the protocol; the Fréchet distance is called `fd_<name>`.
        feature_dim: Length of a feature vector, `d`.
        version: Goes into the fingerprint, beside the tensors of a module. A plain function needs it.
        resize: What the function does to an image's size, for the record.
        normalisation: What it makes of a pixel `u` in 0 to 255, for the record.
        independent_of_nac: Whether the features owe nothing to Neural Activation Coding.
        device: Where images are brought before the function sees them.

    Raises:
        ConfigurationError: The name is no lower-case identifier or belongs to published weights, `feature_dim` is
            below one, or a plain function has no version.
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
        if feature_dim < 1:
            raise ConfigurationError(f"feature_dim must be one or more, got {feature_dim}.")
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
        record = json.dumps([name, version, resize, normalization, weights])
        self.fingerprint = f"sha256:{hashlib.sha256(record.encode()).hexdigest()}"

    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Features:
        """Features of images, in plain float32 and without gradients.

        Args:
            images: 0 to 255, on any device.

        Returns:
            What the function gave.

        Raises:
            DataError: The images are not uint8 `(b, 3, h, w)`, or the function's answer is not float
                `(b, feature_dim)`, with logits `(b, k)` or without.
        """
        check_images(images)
        function = self.function
        training = (
            [m for m in function.modules() if m.training] if isinstance(function, nn.Module) else []
        )
        try:
            for module in training:
                module.training = False
            with torch.no_grad(), plain_float32(self.device.type):
                answer = function(images.to(self.device).contiguous())
        finally:
            for module in training:
                module.training = True
        features, logits = answer if isinstance(answer, tuple) else (answer, None)
        for which, part in (("features", features), ("logits", logits)):
            is_right = part is None or (
                isinstance(part, Tensor)
                and part.is_floating_point()
                and part.ndim == 2
                and len(part) == len(images)
                and (which == "logits" or part.shape[1] == self.feature_dim)
            )
            if not is_right:
                width = self.feature_dim if which == "features" else "k"
                got = (
                    f"{part.dtype} {tuple(part.shape)}" if isinstance(part, Tensor) else repr(part)
                )
                raise DataError(
                    f"{self.name} must give float {which} ({len(images)}, {width}) for {len(images)} images, got "
                    f"{got}. Pool feature maps over their pixels and give one row an image."
                )
        return Features(features.float(), None if logits is None else logits.float())
