"""Constructors, losses and recipes have the same defaults."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from nacgen.functional.nac import nac_bound, nac_loss
from nacgen.gan.options import GeneratorConfig
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator, channels_for
from nacgen.models.vae import Decoder
from nacgen.pretraining.classifier_options import ClassifierConfig
from nacgen.pretraining.options import ModelConfig, NACConfig
from nacgen.vae.options import DecoderConfig, PosteriorConfig

ENCODER = "backbone stem code_dim flip_probability posterior code_normalization"


@pytest.mark.parametrize(
    ("function", "options", "names"),
    [
        (nac_bound, ModelConfig(), "flip_probability"),
        (nac_loss, NACConfig(), "relaxation divide"),
        (NACEncoder, ModelConfig(), ENCODER),
        (Generator, GeneratorConfig(), "latent_dim channels block"),
        (Decoder, DecoderConfig(), "channels likelihood"),
        (Decoder, PosteriorConfig(), "latent_dim"),
        (ImageClassifier, ClassifierConfig(), "channels"),
    ],
)
def test_constructors_losses_and_recipes_have_the_same_defaults(
    function: Callable[..., Any], options: Any, names: str
) -> None:
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    for name in names.split():
        expected = getattr(options, name)
        if name == "channels" and expected is None:  # chosen by the size of the images
            expected = channels_for(defaults["image_size"])
        assert defaults[name] == expected, name
