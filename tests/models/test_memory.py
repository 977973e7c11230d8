"""Sizes that no machine holds are refused before memory is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest

from nacgen.errors import CheckpointError, ConfigurationError
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator
from nacgen.models.vae import Decoder
from nacgen.transplant.vae_encoder import into_vae_encoder

HUGE = 10**10


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (Generator, {"latent_dim": HUGE}, "latent_dim 10000000000 and channels .* make more"),
        (Generator, {"channels": (96, 64, 8 * HUGE)}, "channels .*80000000000"),
        (Generator, {"num_classes": HUGE}, "10000000000 classes of latent_dim 64 make more"),
        (Generator, {"image_size": 4 * 2**999, "channels": (8,) * 1000}, "image_size must be 4"),
        (Decoder, {"latent_dim": int("9" * 400)}, "latent_dim 9999"),
        (NACEncoder, {"code_dim": HUGE}, "code_dim 10000000000 and 64 features make more"),
        (ImageClassifier, {"num_classes": HUGE}, "10000000000 classes"),
        (ImageClassifier, {"channels": (8,) * 17}, "channels must be one .* multiples of 8"),
    ],
)
def test_sizes_are_estimated_first(
    build: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(**options)
    build().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | options))
    with pytest.raises(
        CheckpointError, match=rf"does not describe a {build.__name__}: .*{message}|64 bits"
    ):
        build.from_pretrained(tmp_path)


def test_a_posterior_is_estimated_first() -> None:
    with pytest.raises(ConfigurationError, match="a latent_dim of 10000000000 make more"):
        into_vae_encoder(NACEncoder(), image_size=16, latent_dim=HUGE)


@pytest.mark.parametrize(
    ("name", "value"), [("backbone", None), ("pretraining", []), ("mean", None), ("stem", [1])]
)
def test_null_or_a_list_in_the_wrong_place_is_one_message(
    tmp_path: Path, name: str, value: Any, as_users_run_it: None
) -> None:
    NACEncoder().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(CheckpointError, match=r"config\.json does not describe a NACEncoder: "):
        NACEncoder.from_pretrained(tmp_path)
