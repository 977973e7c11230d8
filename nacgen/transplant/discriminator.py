"""A GAN discriminator on a pretrained trunk. With BatchNorm folded, nothing in it depends on the batch."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nacgen.errors import check_choice
from nacgen.models.encoder import NACEncoder
from nacgen.models.sngan import check_labels, check_num_classes
from nacgen.system.precision import plain_float32
from nacgen.system.randomness import seeded
from nacgen.transplant.heads import (
    HEADS,
    HeadName,
    RandomMixing,
    RGBBranch,
    SpectralNorm,
    cap_convolutions,
    normalize_layers,
)
from nacgen.transplant.prepare import Mode, PreparedTrunk, Source
from nacgen.transplant.report import Transplant
from nacgen.transplant.trunk import BatchNormUse, Trunk, check_image_size


class Discriminator(nn.Module):
    """A trunk with a head on the feature map of each chosen stage, and optionally on an RGB branch.

    The arguments besides the trunk are those of `into_discriminator`. Heads are classes of
    `nacgen.transplant.heads`; `"projected"` also mixes the maps at random.
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
        check_num_classes(num_classes)
        self.trunk, self.image_size, self.num_classes = trunk, image_size, num_classes
        make = HEADS[head]
        shapes = trunk.select(image_size, return_nodes)
        self.return_nodes, self.mixing = tuple(shapes), None
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
        """Compute logits of images in [-1, 1], `(b,)` of one head, `(b, n)` of several; high means real.

        Labels are given exactly where there are classes. `full_precision` leaves autocast, for gradient penalties.
        """
        check_image_size(images, self.image_size)
        check_labels(labels, self.num_classes, len(images))
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


def into_discriminator(
    encoder: NACEncoder,
    *,
    image_size: int,
    mode: Mode = "init",
    head: HeadName = "basis",
    return_nodes: Sequence[str] | None = None,
    rgb_branch: bool | None = None,
    spectral_norm: SpectralNorm = "none",
    num_classes: int | None = None,
    source: Source = "encoder",
    calibration_images: Float[Tensor, "b 3 h w"] | None = None,
    batch_norm: BatchNormUse = "fold",
    frozen_stages: int | None = None,
    seed: int = 0,
) -> Transplant[Discriminator]:
    """Build a GAN discriminator on an encoder's trunk; `module(images)` gives logits.

    Args:
        encoder: Pretrained encoder; it is not changed.
        image_size: Height and width of the images in pixels.
        mode: `"init"`: everything trains. `"partial"`: the first stages are frozen. `"frozen"`: the trunk is
            frozen; every stage and an RGB branch get a head unless told otherwise.
        head: Head on each feature map, see `nacgen.transplant.heads`.
        return_nodes: Names of the stages that get a head; None for the last, or for all of a frozen trunk.
        rgb_branch: Whether to add a small trainable network on the pixels; None adds it to a frozen trunk.
        spectral_norm: `"heads"`: spectral normalization of new layers. `"cap"`: in addition no convolution of
            the trunk grows beyond its first largest singular value. Plain spectral normalization of the trunk
            is not offered, for it would rescale every convolution and destroy the pretrained function.
        num_classes: Number of classes to condition on, by projection; `module(images, labels)` then.
        source: `"encoder"` for its weights, or a control, see `nacgen.transplant.prepare`.
        calibration_images: Images in [-1, 1] for the trunk's check; controls need them to set their scale.
        batch_norm: `"fold"`, `"freeze"` (evaluation mode) or `"train"`: logits and penalties depend on the batch.
        frozen_stages: Number of frozen stages in mode partial, the stem being one; None for half of them.
        seed: Seed of all new weights and of the controls.

    Returns:
        The discriminator on the encoder's device, with its parameter groups and a report.

    Raises:
        ConfigurationError: If a choice is unknown, choices exclude each other, or the images are too small.
        CheckpointError: If the trunk does not reproduce the encoder.

    Example:
        >>> from nacgen.models.encoder import NACEncoder
        >>> part = into_discriminator(NACEncoder(), image_size=16, mode="frozen")
        >>> part.module(torch.zeros(2, 3, 16, 16)).shape  # four stages and the RGB branch
        torch.Size([2, 5])
    """
    check_choice("head", head, HEADS)
    check_choice("spectral_norm", spectral_norm, get_args(SpectralNorm))
    prepared = PreparedTrunk(
        encoder, mode, frozen_stages, image_size, source, calibration_images, batch_norm, seed
    )
    return_nodes, has_branch = prepared.inputs_of_heads(return_nodes, rgb_branch)
    with plain_float32("cpu"), seeded(seed, "heads"):
        trunk = prepared.trunk()
        module = Discriminator(trunk, image_size, return_nodes, head, has_branch, num_classes)
        if spectral_norm == "cap":
            cap_convolutions(module.trunk)
        if spectral_norm != "none":
            normalize_layers(module.heads)
            if module.rgb_branch is not None:
                normalize_layers(module.rgb_branch)
    labels = () if num_classes is None else (torch.zeros(1, dtype=torch.long),)
    return prepared.finish(module, "discriminator", prepared.probe[:1], *labels)
