"""One entry point for all transplants; the exact options stand in the five `into_...` functions."""

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.system.calls import check_call, public
from nacgen.transplant.alignment import into_alignment
from nacgen.transplant.discriminator import into_discriminator
from nacgen.transplant.own_module import into_module
from nacgen.transplant.perceptual import into_perceptual
from nacgen.transplant.report import Transplant
from nacgen.transplant.vae_encoder import into_vae_encoder

TARGETS: dict[str, Callable[..., Transplant[Any]]] = {
    "discriminator": into_discriminator,
    "vae_encoder": into_vae_encoder,
    "perceptual": into_perceptual,
    "alignment": into_alignment,
}


@public
def transplant(
    encoder: NACEncoder, into: str | nn.Module = "discriminator", **options: Any
) -> Transplant[Any]:
    """Build a model on a pretrained encoder's trunk, or fill a module of your own with it.

    Args:
        encoder: Pretrained encoder; it is not changed.
        into: `"discriminator"`, `"vae_encoder"`, `"perceptual"`, `"alignment"`, or a module, which is filled in
            place.
        options: Keywords of `into_discriminator`, `into_vae_encoder`, `into_perceptual`, `into_alignment` or
            `into_module`.

    Returns:
        The module with its parameter groups and a report.

    Raises:
        ConfigurationError: If the target is unknown, or an option has a value that cannot be used.
        ArgumentError: If the target does not take an option, or needs one that is missing; it is a TypeError, too.

    Example:
        >>> import nacgen, torch
        >>> encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
        >>> part = nacgen.transplant(encoder, into="discriminator", image_size=16)
        >>> part.module(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2])
    """
    if "taps" in options:
        warnings.warn("taps is now called return_nodes", DeprecationWarning, stacklevel=3)
        options["return_nodes"] = options.pop("taps")
    if isinstance(into, nn.Module):
        check_call("nacgen.transplant into a module", into_module, (encoder, into), options)
        return into_module(encoder, into, **options)
    if not isinstance(into, str) or into not in TARGETS:
        raise ConfigurationError(
            f"into must be a module or one of {', '.join(TARGETS)}, got {into!r}."
        )
    check_call(f'nacgen.transplant(into="{into}")', TARGETS[into], (encoder,), options)
    return TARGETS[into](encoder, **options)
