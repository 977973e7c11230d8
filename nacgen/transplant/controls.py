"""Where a transplanted trunk's weights come from: the encoder, or a control that knows nothing.

Encoders of other methods, SimCLR's or a supervised one, are encoders like any other: pass them in its place.
"""

import copy
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import Backbone, calibrate_batch_norm
from nacgen.models.encoder import NACEncoder
from nacgen.system.randomness import generator

Source = Literal["encoder", "random", "shuffled"]


def source_of_weights(
    encoder: NACEncoder,
    source: Source,
    calibration_images: Float[Tensor, "b 3 h w"] | None,
    seed: int,
) -> NACEncoder:
    """The encoder itself, or one of its architecture that is a control, as a copy on the CPU.

    Both controls set their BatchNorm statistics on `calibration_images`, a data-dependent initialisation:
    without it a folded random network has no scale, and a comparison with it is rigged.

    Args:
        encoder: Left as it is.
        source: `"encoder"`: its weights. `"random"`: He initialisation. `"shuffled"`: its weights permuted
            within each tensor, the same statistics without the knowledge.
        calibration_images: In [-1, 1].
        seed: Of the controls' weights.

    Returns:
        In evaluation mode.

    Raises:
        ConfigurationError: A control without calibration images.
    """
    model = copy.deepcopy(encoder).cpu().requires_grad_(True).eval()
    if source == "encoder":
        return model
    if calibration_images is None:
        raise ConfigurationError(
            f"source {source!r} sets its scale on calibration_images, but none were given. Pass a batch of "
            "training images in [-1, 1]."
        )
    if source == "random":
        model.backbone.reset_parameters(generator(seed, "random_trunk"))
    else:
        _shuffle_weights(model.backbone, generator(seed, "shuffled_trunk"))
    images = calibration_images.to(model.mean)
    calibrate_batch_norm(model.backbone, lambda: model.feature_maps(images))
    return model


def _shuffle_weights(backbone: Backbone, draw: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in backbone.parameters():
            order = torch.randperm(parameter.numel(), generator=draw).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
