"""A distance between images in an encoder's features, for use as a loss."""

from collections.abc import Sequence

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, DataError
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.prepare import PreparedTrunk, Source
from nacgen.transplant.report import Transplant
from nacgen.transplant.trunk import Trunk

EPSILON = 1e-6  # bounds the gradient where a pixel's features are all zero


class PerceptualDistance(nn.Module):
    """A squared difference of feature maps with unit length at every pixel, averaged over stages.

    Gradients reach both images; the trunk is frozen. An encoder that was trained to ignore color ignores it
    here too, so use a loss on pixels as well. All stages of the trunk must be frozen.

    Source: Zhang et al. 2018, arXiv:1801.03924, equation 1 with all weights equal.
    """

    def __init__(self, trunk: Trunk, return_nodes: Sequence[str] | None = None) -> None:
        super().__init__()
        stages = list(trunk.backbone.stage_channels)
        if trunk.frozen_stages != tuple(stages):
            raise ConfigurationError(
                f"all stages, {', '.join(stages)}, must be frozen, got {', '.join(trunk.frozen_stages) or 'none'}."
            )
        self.trunk = trunk
        return_nodes = stages if return_nodes is None else return_nodes
        self.return_nodes = tuple(trunk.select(trunk.backbone.total_stride, return_nodes))

    def forward(
        self, images: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Compute the distance of each pair of images in [-1, 1], 0 if they are equal and at most 4."""
        first, second = self.trunk(images), self.trunk(other)
        if images.shape != other.shape:
            raise DataError(
                f"images are compared in pairs of one size, got {tuple(images.shape)} and {tuple(other.shape)}. "
                "Resize or repeat one of the batches."
            )
        distances = [
            reduce((_unit(first[node]) - _unit(second[node])).square(), "b c h w -> b h w", "sum")
            for node in self.return_nodes
        ]
        return torch.stack([reduce(x, "b h w -> b", "mean") for x in distances]).mean(0)


def into_perceptual(
    encoder: NACEncoder,
    *,
    return_nodes: Sequence[str] | None = None,
    source: Source = "encoder",
    calibration_images: Float[Tensor, "b 3 h w"] | None = None,
    seed: int = 0,
) -> Transplant[PerceptualDistance]:
    """Build a perceptual distance on a frozen trunk; `module(images, others)` takes images of any size.

    Args:
        encoder: Pretrained encoder; it is not changed.
        return_nodes: Names of the stages to compare; None for all.
        source: As in `into_discriminator`.
        calibration_images: As in `into_discriminator`.
        seed: Seed of the controls' weights.

    Returns:
        The distance on the encoder's device, with a report; it has nothing to train.

    Raises:
        ConfigurationError: If a choice is unknown, or a stage does not exist.
        CheckpointError: If the trunk does not reproduce the encoder.

    Example:
        >>> from nacgen.models.encoder import NACEncoder
        >>> distance = into_perceptual(NACEncoder()).module
        >>> images = torch.zeros(2, 3, 16, 16)
        >>> distance(images, images).tolist()
        [0.0, 0.0]
    """
    images = calibration_images
    prepared = PreparedTrunk(encoder, "frozen", None, None, source, images, "fold", seed)
    module = PerceptualDistance(prepared.trunk(), return_nodes)
    return prepared.finish(module, "perceptual", prepared.probe[:1], prepared.probe[:1])


def _unit(feature_map: Tensor) -> Tensor:
    """Divide every pixel's features by their length."""
    feature_map = feature_map.float()
    length = reduce(feature_map.square(), "b c h w -> b 1 h w", "sum")
    return feature_map * torch.rsqrt(length + EPSILON)
