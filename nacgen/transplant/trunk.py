"""A pretrained trunk as part of another model: input in [-1, 1], frozen stages, no batch statistics."""

import copy
from collections.abc import Collection, Sequence
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nacgen.data.pixels import check_batch
from nacgen.errors import ConfigurationError, DataError
from nacgen.models.backbone import Backbone
from nacgen.models.encoder import normalize_input
from nacgen.models.own_network import evaluating

BatchNorm = nn.modules.batchnorm._BatchNorm  # synchronized or not
BatchNormUse = Literal["fold", "freeze", "train"]


class Trunk(nn.Module):
    """A backbone with its input normalisation, whose first stages may be frozen.

    The parameters of a frozen stage get no gradients, and it stays in evaluation mode through every `train()`.
    Gradients still pass through it to the images. Mean and standard deviation of each channel, `(3, 1, 1)`,
    are those of the pretraining images in [0, 1]. The backbone is held, not copied.
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
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())
        self._freeze(list(backbone.stage_channels)[:num_frozen])

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules that are not frozen."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.batch_norm == "freeze":
            for module in self.backbone.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if not self.backbone.has_stages:  # all of it or nothing
            return [self.backbone] if self.frozen_stages else []
        stages = self.backbone.stages()
        return [module for stage in self.frozen_stages for module in stages[stage]]

    def _freeze(self, stages: Collection[str]) -> None:
        self.frozen_stages = tuple(stages)
        for module in self._frozen_modules():
            module.requires_grad_(False)
        self.train(self.training)

    def select(
        self, image_size: int, return_nodes: Sequence[str] | None = None
    ) -> dict[str, tuple[int, int]]:
        """Return `{stage: (channels, size in pixels)}` of some stages; freeze those above, which nothing reads.

        They would get no gradients, for which several processes would wait. Without names it is the last stage.
        """
        stages = list(self.backbone.stage_channels)
        return_nodes = [return_nodes] if isinstance(return_nodes, str) else return_nodes
        return_nodes = stages[-1:] if return_nodes is None else list(return_nodes)
        unknown = [str(node) for node in return_nodes if node not in stages]
        if unknown or not return_nodes:
            raise ConfigurationError(
                f"return_nodes must be among {', '.join(stages)}, and one at least, got "
                f"{', '.join(unknown) or 'no stage'}."
            )
        last = max(stages.index(node) for node in return_nodes)
        with torch.no_grad(), evaluating(self):
            maps = self(torch.zeros(1, 3, image_size, image_size).to(self.mean))
        self._freeze([s for s in stages if s in self.frozen_stages or s in stages[last + 1 :]])
        return {s: (maps[s].shape[1], maps[s].shape[-1]) for s in stages if s in return_nodes}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Return the maps of images in [-1, 1], `{"stem": (b, c, h, w), "layer1": ..., ...}`."""
        maps: dict[str, Tensor] = self.backbone(normalize_input(images, self))
        return maps


def check_image_size(images: Tensor, size: int) -> None:
    """Raise a `DataError` unless images have the size in pixels that a model was built for."""
    check_batch(images)
    if images.shape[-2:] != (size, size):
        raise DataError(
            f"images must have the image_size of this model, {size}x{size} px, got "
            f"{images.shape[-2]}x{images.shape[-1]}. Resize them, or build the model for their size."
        )


def stage_parameters(backbone: Backbone) -> dict[str, tuple[str, ...]]:
    """Return the names of the parameters of each stage, stem first; empty where stages are not known."""
    if not backbone.has_stages:
        return {}
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    return {
        stage: tuple(names[id(p)] for module in modules for p in module.parameters())
        for stage, modules in backbone.stages().items()
    }


def fold_batch_norm(backbone: Backbone) -> Backbone:
    """Copy a backbone with the evaluation-mode function of every BatchNorm folded into its convolution.

    `W' = W g / sqrt(v + eps)`, `b' = beta + (b - m) g / sqrt(v + eps)`. No buffers remain.
    """
    folded = copy.deepcopy(backbone).eval()
    for owner, convolution, norm in list(folded.convolution_norm_pairs()):
        conv, bn = getattr(owner, convolution), getattr(owner, norm)
        if "weight" not in conv._parameters or bn.running_var is None:
            raise ConfigurationError(
                f"plain convolutions and BatchNorm with statistics are needed to fold one into the other, but "
                f"{convolution} is parametrized, or {norm} keeps no statistics. Remove the parametrization, or "
                "choose batch_norm 'freeze'."
            )
        fused = fuse_conv_bn_eval(conv, bn)
        setattr(owner, convolution, fused)
        setattr(owner, norm, nn.Identity())
    return folded.requires_grad_(True)  # fusing freezes the biases that it makes
