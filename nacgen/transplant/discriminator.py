"""A discriminator on an encoder's trunk. Nothing in it depends on the batch once BatchNorm is folded."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.transplant.heads import HEADS, HeadName, RandomMixing, RGBBranch
from nacgen.transplant.trunk import Trunk


class Discriminator(nn.Module):
    """A trunk, a head on each tapped stage, and perhaps an RGB branch with a head of its own.

    Args:
        trunk: Gives the feature maps.
        image_size: Height and width in pixels.
        return_nodes: Stages that get a head; None for the last.
        head: Of each tap and of the RGB branch, see `nacgen.transplant.heads`; `"projected"` mixes the taps' maps
            at random before.
        rgb_branch: Whether to add one.
        num_classes: Of the labels that logits are conditioned on, by projection; None for none.

    Raises:
        ConfigurationError: The images are too small for the trunk, a tap does not exist, or there are no classes.
    """

    def __init__(
        self,
        trunk: Trunk,
        image_size: int,
        return_nodes: Sequence[str] | None = None,
        head: HeadName = "basis",
        rgb_branch: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ConfigurationError(f"num_classes must be one or more, got {num_classes}.")
        self.trunk, self.num_classes, make = trunk, num_classes, HEADS[head]
        shapes = trunk.map_shapes(image_size, return_nodes)
        self.return_nodes, self.mixing = tuple(shapes), None
        trunk.leave_out_above(shapes)
        if head == "projected":
            self.mixing = RandomMixing(shapes)
            shapes = {node: (self.mixing.out_channels, size) for node, (_, size) in shapes.items()}
        heads = {node: make(width, size, num_classes) for node, (width, size) in shapes.items()}
        self.rgb_branch = RGBBranch() if rgb_branch else None
        if self.rgb_branch is not None:
            heads["rgb"] = make(self.rgb_branch.out_channels, image_size // 2, num_classes)
        self.heads = nn.ModuleDict(heads)

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Int[Tensor, " b"] | None = None,
        full_precision: bool = False,
    ) -> Float[Tensor, "b *n"]:
        """Logits, high for images taken to be real.

        Args:
            images: In [-1, 1].
            labels: Classes from 0, where the discriminator was made with classes.
            full_precision: Leave autocast, as gradient penalties must.

        Returns:
            `(b,)` from one head, `(b, n)` from several.

        Raises:
            ValueError: Labels are missing, or given to a discriminator without classes.
        """
        if (labels is None) != (self.num_classes is None):
            raise ValueError(
                f"labels must be given exactly where there are classes, got "
                f"{'no labels' if labels is None else f'{len(labels)} labels'} with num_classes "
                f"{self.num_classes}. Pass num_classes to transplant to condition on labels."
            )
        device = images.device.type
        with torch.autocast(device, enabled=False) if full_precision else nullcontext():
            maps = self.trunk(images)
            if self.mixing is not None:
                maps = self.mixing(maps)
            if self.rgb_branch is not None:
                maps["rgb"] = self.rgb_branch(images)
            logits = [head(maps[node], labels) for node, head in self.heads.items()]
            stacked = torch.cat(logits, dim=1)  # -> (b, n)
        return stacked.squeeze(1) if stacked.shape[1] == 1 else stacked
