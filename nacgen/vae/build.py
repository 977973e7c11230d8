"""From the options of VAE training to its networks and its update."""

import sys

import torch
from accelerate import Accelerator
from torch import Tensor

from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import channels_for
from nacgen.models.vae import VAE, Decoder
from nacgen.system.randomness import seeded
from nacgen.training.generative import DIGITS_ENCODER
from nacgen.transplant.discriminator import into_discriminator
from nacgen.transplant.perceptual import PerceptualDistance, into_perceptual
from nacgen.transplant.prepare import Source
from nacgen.transplant.vae_encoder import into_vae_encoder
from nacgen.vae.options import VAEConfig
from nacgen.vae.update import Adversary, VAEUpdate

DISCRIMINATOR_RATE = 1e-3  # learning rate of its heads; that of its trunk is 0.3 times as large


def build_update(
    config: VAEConfig, accelerator: Accelerator, dataset: Dataset, stream: ImageStream
) -> tuple[VAEUpdate, NACEncoder]:
    """Build the networks, the optimizers and the update of a run; return the encoder that it starts from, too."""
    size, device = dataset.image_size, accelerator.device
    encoder = NACEncoder.from_pretrained(config.encoder or DIGITS_ENCODER)
    images = to_float(dataset.read(stream.indices(0)))
    latent_dim, rate = config.posterior.latent_dim, config.optim.learning_rate
    with seeded(config.seed, "decoder"):
        channels = config.decoder.channels or channels_for(size)
        decoder = Decoder(size, latent_dim, channels, config.decoder.likelihood)
    part = into_vae_encoder(
        encoder,
        mode=config.posterior.mode,
        latent_dim=latent_dim,
        image_size=size,
        source=config.source,
        calibration_images=images,
        seed=config.seed,
    )
    accelerator.print(part.report, file=sys.stderr)
    groups = part.param_groups(rate, trunk_multiplier=1.0)
    groups.append({"params": list(decoder.parameters()), "lr": rate})
    vae = VAE(part.module, decoder).to(memory_format=torch.channels_last).to(device)
    optimizer = torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.99))
    perceptual = build_perceptual(config, accelerator, encoder, images)
    adversary = build_adversary(config, accelerator, encoder, images)
    return VAEUpdate(accelerator, vae, optimizer, config, perceptual, adversary), encoder


def build_perceptual(
    config: VAEConfig, accelerator: Accelerator, encoder: NACEncoder, images: Tensor
) -> PerceptualDistance | None:
    """Build the distance that reconstructions are also compared by."""
    if config.perceptual == "none":
        return None
    if config.perceptual_encoder is not None:
        encoder = NACEncoder.from_pretrained(config.perceptual_encoder)
    source: Source = "encoder" if config.perceptual == "nac" else config.perceptual
    part = into_perceptual(encoder, source=source, calibration_images=images, seed=config.seed)
    accelerator.print(part.report, file=sys.stderr)
    return part.module.to(accelerator.device)


def build_adversary(
    config: VAEConfig, accelerator: Accelerator, encoder: NACEncoder, images: Tensor
) -> Adversary | None:
    """Build the discriminator of reconstructions and its optimizer."""
    if not config.adversarial:
        return None
    part = into_discriminator(
        encoder,
        image_size=images.shape[-1],
        source=config.discriminator.source,
        calibration_images=images,
        seed=config.seed,
    )
    accelerator.print(part.report, file=sys.stderr)
    groups = part.param_groups(DISCRIMINATOR_RATE)
    module = part.module.to(memory_format=torch.channels_last).to(accelerator.device)
    optimizer = torch.optim.Adam(groups, lr=DISCRIMINATOR_RATE, betas=(0.0, 0.99))
    return Adversary(accelerator, module, optimizer, config)
