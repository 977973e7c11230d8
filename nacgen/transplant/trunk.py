"""A pretrained trunk as part of another model: input in [-1, 1], stages that never train, no batch statistics."""

import copy
from collections.abc import Collection, Sequence
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import Backbone
from nacgen.models.encoder import normalize_input

BatchNormUse = Literal["fold", "freeze", "train"]


class Trunk(nn.Module):
    """Feature maps of images, of which the first stages may be frozen, and those that nothing reads.

    A frozen stage has no gradients of its own, and stays in evaluation mode through every `train()`;
    gradients pass through it to the images.

    Args:
        backbone: Of an encoder; held, not copied.
        mean: `(3, 1, 1)`, the input normalisation that it was trained with, of values in [0, 1].
        std: `(3, 1, 1)`.
        num_frozen: How many of the first stages never train, the stem being one.
        batch_norm: What becomes of BatchNorm that is not folded: `"freeze"` keeps it in evaluation mode,
            `"train"` takes statistics of the batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        mean: Tensor,
        std: Tensor,
        num_frozen: int = 0,
        batch_norm: BatchNormUse = "fold",
    ) -> None:
        super().__init__()
        self.backbone, self.batch_norm = backbone, batch_norm
        self.frozen_stages = tuple(list(backbone.stage_channels)[:num_frozen])
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what is not frozen."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.batch_norm == "freeze":
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        stages = self.backbone.stages()
        return [module for stage in self.frozen_stages for module in stages[stage]]

    def leave_out_above(self, return_nodes: Collection[str]) -> None:
        """Freeze the stages above the last tap: they get no gradients, which several processes would wait for.

        Args:
            return_nodes: Stages that are read.
        """
        stages = list(self.backbone.stage_channels)
        last = max(stages.index(node) for node in return_nodes)
        self.frozen_stages += tuple(s for s in stages[last + 1 :] if s not in self.frozen_stages)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def map_shapes(
        self, image_size: int, return_nodes: Sequence[str] | None = None
    ) -> dict[str, tuple[int, int]]:
        """Channels, and height and width in pixels, of the maps of some stages.

        Args:
            image_size: Height and width in pixels of the images.
            return_nodes: Stages; None for the last.

        Returns:
            `{stage: (channels, size)}` in the order of the stages.

        Raises:
            ConfigurationError: The images are too small, there is no such stage, or none is asked for.
        """
        stages = list(self.backbone.stage_channels)
        return_nodes = stages[-1:] if return_nodes is None else return_nodes
        unknown = [node for node in return_nodes if node not in stages]
        if unknown or not return_nodes:
            raise ConfigurationError(
                f"return_nodes must be among {', '.join(stages)}, and one at least, got "
                f"{', '.join(unknown) or 'no stage'}."
            )
        was_training = self.training
        with torch.no_grad():
            maps = self.eval()(torch.zeros(1, 3, image_size, image_size).to(self.mean))
        self.train(was_training)
        return {s: (maps[s].shape[1], maps[s].shape[-1]) for s in stages if s in return_nodes}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Feature maps of every stage.

        Args:
            images: In [-1, 1].

        Returns:
            `{"stem": (b, c, h, w), "layer1": ..., ...}`.
        """
        maps: dict[str, Tensor] = self.backbone(normalize_input(images, self.mean, self.std))
        return maps


def stage_parameters(backbone: Backbone) -> dict[str, tuple[str, ...]]:
    """Names of the parameters of each stage, stem first.

    Args:
        backbone: Any.

    Returns:
        `{stage: names}`.
    """
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    return {
        stage: tuple(names[id(p)] for module in modules for p in module.parameters())
        for stage, modules in backbone.stages().items()
    }


def fold_batch_norm(backbone: Backbone) -> Backbone:
    """A copy of a backbone with every BatchNorm's evaluation-mode map folded into its convolution.

    With weight W, scale g, shift beta, running mean m and variance v:
    `W' = W g / sqrt(v + eps)`, `b' = beta + (b - m) g / sqrt(v + eps)`.

    Args:
        backbone: With BatchNorm; left as it is.

    Returns:
        A backbone with biased convolutions and identities in place of BatchNorm; it has no buffers.
    """
    folded = copy.deepcopy(backbone).eval()
    for owner, convolution, norm in list(folded.convolution_norm_pairs()):
        fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm))
        setattr(owner, convolution, fused)
        setattr(owner, norm, nn.Identity())
    return folded.requires_grad_(True)  # fusing freezes the biases that it makes
