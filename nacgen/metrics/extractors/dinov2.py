"""DINOv2 as extractor: its features of photographs agree with human ratings better than Inception's.

Source:
    Oquab et al. 2023, arXiv:2304.07193 (the network); Stein et al. 2023, arXiv:2306.04675 (its use in scores).
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import CheckpointError, ConfigurationError
from nacgen.metrics.extractors.base import Features, NetworkExtractor
from nacgen.metrics.extractors.resize import resize_clean
from nacgen.models.foreign import read_foreign
from nacgen.system.tensor_file import require_finite

NAMES = {384: "dinov2_vits14", 768: "dinov2_vitb14", 1024: "dinov2_vitl14"}
SIZE, PATCH, HEAD_DIM = 224, 14, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_BATCH = 32


class DINOv2Extractor(NetworkExtractor):
    """The class token of a DINOv2 vision transformer, after its last norm.

    `network` maps normalized images `(b, 3, 224, 224)` to features `(b, d)`.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.AvgPool2d(224), torch.nn.Flatten())
        >>> DINOv2Extractor(network, name="tiny", feature_dim=3).score_name
        'fd_tiny'
    """

    resize = "clean, 224 px"
    normalization = f"(u / 255 - {MEAN}) / {STD}"

    def extract(self, pixels: Float[Tensor, "b 3 h w"]) -> Features:
        """Compute features of pixels in 0 to 255, of any size."""
        mean, std = (rearrange(pixels.new_tensor(v), "c -> c 1 1") for v in (MEAN, STD))
        parts = []
        for part in pixels.split(MAX_BATCH):
            resized = resize_clean(part, SIZE) / 255
            parts.append(self.network((resized - mean) / std))
        return Features(torch.cat(parts), None)


def load_dinov2(weights: str | Path | None, device: torch.device | str = "cpu") -> DINOv2Extractor:
    """Load DINOv2 from `dinov2_vitl14_pretrain.pth` or the like, or from the same tensors as `.safetensors`.

    The networks are ViT-S/14, B/14 and L/14 without registers. The fingerprint tells weights apart, because the
    file's name is no proof.
    """
    if weights is None:
        raise ConfigurationError(
            "the extractor dinov2 needs a file of weights, got none. Download dinov2_vitl14_pretrain.pth from "
            "https://github.com/facebookresearch/dinov2 and give its path as weights."
        )
    state = read_foreign(weights)
    require_finite(state, str(weights))
    state.pop("mask_token", None)  # used in its pretraining only
    network, feature_dim = _build(state, str(weights))
    state["pos_embed"] = interpolate_positions(state["pos_embed"], SIZE // PATCH)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{weights} does not fit DINOv2's ViT with {feature_dim} features: {error}. Give the weights of "
            "ViT-S/14, B/14 or L/14 without registers."
        ) from error
    name = NAMES.get(feature_dim, f"dinov2_{feature_dim}")
    return DINOv2Extractor(network, name=name, feature_dim=feature_dim, device=device)


def interpolate_positions(positions: Float[Tensor, "1 n d"], grid: int) -> Float[Tensor, "1 m d"]:
    """Bring position embeddings, the class token's first, to a square grid of patches, as the published code does.

    The interpolation is bicubic without antialiasing, at a scale that is a tenth of a patch too large.
    """
    there = round((positions.shape[1] - 1) ** 0.5)
    if there == grid:
        return positions
    maps = rearrange(positions[:, 1:], "1 (h w) d -> 1 d h w", h=there)
    scale = (grid + 0.1) / there
    maps = F.interpolate(maps, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], rearrange(maps, "1 d h w -> 1 (h w) d")], dim=1)


def _build(state: dict[str, Tensor], source: str) -> tuple[nn.Module, int]:
    try:
        vision_transformer: Any = import_module("timm.models.vision_transformer")
    except ImportError as error:
        raise ConfigurationError(
            'the extractor dinov2 needs timm, which is not installed. Run `pip install "nacgen[timm]"`.'
        ) from error
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    positions = state.get("pos_embed", torch.empty(0))
    is_grid = positions.ndim == 3 and (positions.shape[1] - 1) ** 0.5 % 1 == 0
    if depth == 0 or not is_grid or positions.shape[2] % HEAD_DIM:
        raise CheckpointError(
            f"{source} must hold a DINOv2 ViT (pos_embed, blocks.0.norm1.weight, …), got "
            f"{', '.join(sorted(state)[:5])}, …. Give the weights of ViT-S/14, B/14 or L/14."
        )
    feature_dim = positions.shape[2]
    with torch.device("meta"):
        network: nn.Module = vision_transformer.VisionTransformer(
            img_size=SIZE,
            patch_size=PATCH,
            embed_dim=feature_dim,
            depth=depth,
            num_heads=feature_dim // HEAD_DIM,
            init_values=1.0,
            num_classes=0,
            global_pool="token",
        )
    return network, feature_dim
