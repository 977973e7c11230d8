"""Sampling from generators, decoders and denoisers: image i always comes from seed i."""

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor

from nacgen.data.pixels import to_uint8
from nacgen.functional.gan import great_circle
from nacgen.models.denoiser import Denoiser
from nacgen.models.gan import Generator
from nacgen.models.own import load_generator
from nacgen.models.vae import Decoder
from nacgen.system.places import model_of_run
from nacgen.system.randomness import normal_rows

ImageModel = Generator | Decoder | Denoiser
CLASSES: dict[str, type[ImageModel]] = {
    "generator": Generator,
    "decoder": Decoder,
    "denoiser": Denoiser,
}


def load_model(run_dir: str | Path, generator: Any = None) -> ImageModel:
    """Load the generator, decoder or denoiser of a run, as it was at the last evaluation, on the CPU.

    `generator` is the network of a run with a generator of the user's own, or a function or class that makes it.
    """
    folder = model_of_run(run_dir)
    if folder.name == "generator":
        return load_generator(folder, generator)
    return CLASSES[folder.name].from_pretrained(folder)


def sample_images(
    model: ImageModel, indices: Int64[Tensor, " b"], device: torch.device | str = "cpu"
) -> UInt8[Tensor, "b 3 h w"]:
    """Make images by number on the model's `device`, each from its own seed, of each class in turn if any."""
    z = normal_rows(0, "sample", indices, model.latent_dim).to(device)
    with torch.no_grad():
        if not isinstance(model, Generator):
            return to_uint8(model.images(z).float())
        num_classes = model.num_classes
        labels = None if num_classes is None else indices.to(device) % num_classes
        return to_uint8(model(z, labels).float())


def interpolate(
    generator: Generator, num_rows: int, num_columns: int, device: torch.device | str = "cpu"
) -> UInt8[Tensor, "n 3 h w"]:
    """Make rows of images whose latents lead from one sample to another; row `r` is of class `r`, if any."""
    num_ends, width = 2 * num_rows, generator.latent_dim
    ends = normal_rows(0, "sample", torch.arange(num_ends), width).to(device)
    z = torch.stack([great_circle(a, b, num_columns) for a, b in ends.split(2)])
    labels = None
    if generator.num_classes is not None:
        classes = torch.arange(num_rows, device=device) % generator.num_classes
        labels = classes.repeat_interleave(num_columns)
    with torch.no_grad():
        return to_uint8(generator(rearrange(z, "r k z -> (r k) z"), labels).float())
