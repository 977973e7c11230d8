"""A distance between images as an encoder sees them, to be used as a loss."""

from collections.abc import Sequence

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.transplant.trunk import Trunk

EPSILON = 1e-6  # bounds the gradient where a pixel's features are all zero


class PerceptualDistance(nn.Module):
    """Squared difference of feature maps whose every pixel is brought to unit length, averaged over stages.

    Gradients reach both images; the trunk is frozen. Features of an encoder that was trained to overlook
    colour overlook it here too, so a loss on pixels belongs beside it.

    Args:
        trunk: Gives the feature maps, all of its stages frozen.
        return_nodes: Stages to compare; None for all.

    Raises:
        ConfigurationError: A tap does not exist, or a stage is not frozen.

    Source:
        Zhang et al. 2018, arXiv:1801.03924, equation 1 with all weights equal.
    """

    def __init__(self, trunk: Trunk, return_nodes: Sequence[str] | None = None) -> None:
        super().__init__()
        stages = list(trunk.backbone.stage_channels)
        if trunk.frozen_stages != tuple(stages):
            raise ConfigurationError(
                f"all stages, {', '.join(stages)}, must be frozen, got {', '.join(trunk.frozen_stages) or 'none'}."
            )
        self.trunk = trunk
        shapes = trunk.map_shapes(
            trunk.backbone.total_stride, stages if return_nodes is None else return_nodes
        )
        self.return_nodes = tuple(shapes)

    def forward(
        self, images: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Distance of each pair.

        Args:
            images: In [-1, 1].
            other: In [-1, 1].

        Returns:
            0 for equal images, at most 4; computed in float32 from the maps on.
        """
        first, second = self.trunk(images), self.trunk(other)
        distances = [
            reduce((_unit(first[node]) - _unit(second[node])).square(), "b c h w -> b h w", "sum")
            for node in self.return_nodes
        ]
        return torch.stack([reduce(x, "b h w -> b", "mean") for x in distances]).mean(0)


def _unit(feature_map: Tensor) -> Tensor:
    """Every pixel's features divided by their length."""
    feature_map = feature_map.float()
    length = reduce(feature_map.square(), "b c h w -> b 1 h w", "sum")
    return feature_map * torch.rsqrt(length + EPSILON)
