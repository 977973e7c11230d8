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
from nacgen.training.monitors import DivergenceMonitor
from nacgen.transplant.controls import Source
from nacgen.transplant.discriminator import into_discriminator
from nacgen.transplant.perceptual import PerceptualDistance, into_perceptual
from nacgen.transplant.vae_encoder import into_vae_encoder
from nacgen.vae.adversary import Adversary
from nacgen.vae.options import VAEConfig
from nacgen.vae.update import VAEUpdate, warm_up

DIGITS_ENCODER = "checkpoints/digits-nac"
BETAS = {"vae": (0.9, 0.99), "discriminator": (0.0, 0.99)}  # of Adam


def build_update(
    config: VAEConfig, accelerator: Accelerator, dataset: Dataset, stream: ImageStream
) -> tuple[VAEUpdate, NACEncoder]:
    """Networks, optimizers and the update of a run.

    Args:
        config: Options of the run.
        accelerator: Prepared for it; its main process prints the transplants' reports.
        dataset: The training images.
        stream: Their batches.

    Returns:
        The update, and the encoder that the VAE's was made from.

    Raises:
        ConfigurationError: Options, encoder and images do not fit.
        CheckpointError: An encoder cannot be loaded.
    """
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
        source=_source(config.init),
        calibration_images=images,
        seed=config.seed,
    )
    accelerator.print(part.report, file=sys.stderr)
    groups = part.param_groups(rate, trunk_multiplier=config.posterior.trunk_lr_multiplier)
    groups.append({"params": list(decoder.parameters()), "lr": rate})
    vae = VAE(part.module, decoder).to(memory_format=torch.channels_last).to(device)
    adversary = None
    if config.adversarial:
        adversary = build_adversary(config, accelerator, encoder, images)
    update = VAEUpdate(
        accelerator,
        vae,
        torch.optim.Adam(groups, lr=rate, betas=BETAS["vae"]),
        beta=warm_up(config.objective.beta, config.warmup_images),
        free_bits=config.objective.free_bits,
        perceptual=build_perceptual(config, accelerator, encoder, images),
        perceptual_weight=config.objective.perceptual_weight,
        adversary=adversary,
    )
    return update, encoder


def build_perceptual(
    config: VAEConfig, accelerator: Accelerator, encoder: NACEncoder, images: Tensor
) -> PerceptualDistance | None:
    """The distance that reconstructions are also compared by.

    Args:
        config: Options of the run.
        accelerator: Of the run.
        encoder: Taken where `config.perceptual_encoder` names no other.
        images: `(b, 3, h, w)` in [-1, 1], by which controls set their scale.

    Returns:
        The distance, frozen, or None for a run without.

    Raises:
        CheckpointError: The encoder cannot be loaded.
    """
    if config.perceptual == "none":
        return None
    if config.perceptual_encoder is not None:
        encoder = NACEncoder.from_pretrained(config.perceptual_encoder)
    source = _source(config.perceptual)
    part = into_perceptual(encoder, source=source, calibration_images=images, seed=config.seed)
    accelerator.print(part.report, file=sys.stderr)
    return part.module.to(accelerator.device)


def build_adversary(
    config: VAEConfig, accelerator: Accelerator, encoder: NACEncoder, images: Tensor
) -> Adversary:
    """The discriminator that judges reconstructions, its optimizer and its times.

    Args:
        config: Options of the run.
        accelerator: Of the run.
        encoder: Its trunk.
        images: `(b, 3, h, w)` in [-1, 1], by which controls set their scale.

    Returns:
        The adversary.
    """
    options = config.discriminator
    part = into_discriminator(
        encoder,
        image_size=images.shape[-1],
        source=options.source,
        calibration_images=images,
        seed=config.seed,
    )
    accelerator.print(part.report, file=sys.stderr)
    groups = part.param_groups(options.learning_rate)
    return Adversary(
        accelerator,
        part.module.to(memory_format=torch.channels_last).to(accelerator.device),
        torch.optim.Adam(groups, lr=options.learning_rate, betas=BETAS["discriminator"]),
        weight=options.weight,
        start=int(options.start * config.total_images),
        acts_from=int(options.acts_from * config.total_images),
        penalty_weight=options.penalty_weight,
        watch=DivergenceMonitor(
            options.largest_logit, config.run.checkpoint_every, "--discriminator.largest-logit"
        ),
    )


def _source(init: str) -> Source:
    """What transplants call it: encoders of all methods are encoders."""
    return "random" if init == "random" else "shuffled" if init == "shuffled" else "encoder"
