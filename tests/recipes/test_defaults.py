"""One truth for defaults: networks, losses and recipes agree."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from nacgen.functional.nac import nac_bound, nac_loss
from nacgen.gan.options import GANConfig
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator, channels_for
from nacgen.models.vae import Decoder
from nacgen.pretraining.options import PretrainConfig
from nacgen.vae.options import VAEConfig

PRETRAIN, GAN, VAE = PretrainConfig(), GANConfig(), VAEConfig()


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (NACEncoder, dataclasses.asdict(PRETRAIN.model)),
        (nac_loss, dataclasses.asdict(PRETRAIN.nac)),
        (nac_bound, dataclasses.asdict(PRETRAIN.model)),
        (Generator, dataclasses.asdict(GAN.generator) | {"channels": channels_for(16)}),
        (Decoder, dataclasses.asdict(VAE.decoder) | {"channels": channels_for(16)}),
        (Decoder, dataclasses.asdict(VAE.posterior)),
    ],
)
def test_functions_and_recipes_have_the_same_defaults(
    function: Callable[..., Any], options: dict[str, Any]
) -> None:
    parameters = inspect.signature(function).parameters
    shared = {
        name: parameters[name].default
        for name in options.keys() & parameters.keys()
        if parameters[name].default is not inspect.Parameter.empty
    }
    assert shared
    assert shared == {name: options[name] for name in shared}
