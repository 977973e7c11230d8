"""Origin of a trunk's weights: the encoder, or a control with its architecture and none of its knowledge.

Encoders of other methods, such as SimCLR or supervised ones, are not controls: pass them as the encoder.
"""

import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import calibrate_batch_norm
from nacgen.models.encoder import NACEncoder
from nacgen.system.randomness import generator

Source = Literal["encoder", "random", "shuffled"]


def source_of_weights(
    encoder: NACEncoder,
    source: Source,
    calibration_images: Float[Tensor, "b 3 h w"] | None,
    seed: int,
) -> NACEncoder:
    """Copy an encoder to the CPU in evaluation mode, with its own weights or those of a control.

    Controls set their BatchNorm statistics on the calibration images, a data-dependent initialization. Without
    it a folded random network would have no scale, and the comparison with it would be unfair.
    """
    model = copy.deepcopy(encoder).cpu().requires_grad_(True).eval()
    if source == "encoder":
        return model
    if calibration_images is None:
        raise ConfigurationError(
            f"source {source!r} needs calibration_images for its scale, got none. Pass a batch of training images."
        )
    if source == "random":
        model.backbone.reset_parameters(generator(seed, "random_trunk"))
    else:
        draw = generator(seed, "shuffled_trunk")
        with torch.no_grad():
            for parameter in model.backbone.parameters():
                order = torch.randperm(parameter.numel(), generator=draw)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    images = calibration_images.to(model.mean)
    calibrate_batch_norm(model.backbone, lambda: model.feature_maps(images))
    return model
