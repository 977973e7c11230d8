"""From the options of GAN training to its networks and its update."""

import sys
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.data.provenance import no_labels
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, DataError
from nacgen.gan.options import GANConfig
from nacgen.gan.update import GANUpdate
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator, channels_for
from nacgen.models.own import OwnDiscriminator, OwnGenerator
from nacgen.models.own_network import own_augmentation, own_network
from nacgen.models.sngan import SNGANDiscriminator
from nacgen.system.own_parts import is_own
from nacgen.system.randomness import seeded
from nacgen.training.generative import DIGITS_ENCODER
from nacgen.training.parts import NO_PARTS, Parts
from nacgen.transplant.discriminator import into_discriminator
from nacgen.transplant.prepare import source_of_weights


def num_classes_of(config: GANConfig, dataset: Dataset) -> int | None:
    """Return the number of classes that the networks know; raise where images have not exactly one each."""
    if not config.conditional:
        return None
    if dataset.labels is None or dataset.labels.ndim != 1:
        came = no_labels(dataset) if dataset.labels is None else "several an image"
        raise DataError(
            f"--conditional needs one class for each image, but the {dataset.split} split of {dataset.name} has "
            f"{came}. Put the images of each class into a subfolder of its own, or leave --conditional out."
        )
    return len(dataset.class_names)


def build_generator(
    config: GANConfig, dataset: Dataset, num_processes: int = 1, parts: Parts = NO_PARTS
) -> Generator:
    """Build the generator, whose BatchNorm is over all processes."""
    options, num_classes = config.generator, num_classes_of(config, dataset)
    if is_own(options.network):
        part = parts.find("generator", "generator.network", options.network)
        known: dict[str, Any] = {"latent_dim": options.latent_dim, "num_classes": num_classes}
        size = dataset.image_size
        network = own_network("generator", part, config.seed, image_size=size, **known)
        own = OwnGenerator.probed(network, size, **known)
        return _synchronized(own, "generator.network", "the network GroupNorm", num_processes)
    with seeded(config.seed, "generator"):
        generator = Generator(
            dataset.image_size,
            options.latent_dim,
            options.channels or channels_for(dataset.image_size),
            num_classes,
            options.block,
        )
    return _synchronized(
        generator, "generator.block sngan", "--generator.block small", num_processes
    )


def build_update(
    config: GANConfig,
    accelerator: Accelerator,
    dataset: Dataset,
    stream: ImageStream,
    parts: Parts = NO_PARTS,
) -> tuple[GANUpdate, NACEncoder | None]:
    """Build the networks, the optimizers and the update of a run; return the discriminator's encoder, if any."""
    options, optim = config.discriminator, config.optim
    if stream.local_size % optim.micro_batches:
        raise ConfigurationError(
            f"optim.micro_batches must divide the {stream.local_size} images of a process, got "
            f"{optim.micro_batches}. Change --optim.micro-batches, or --batch-size."
        )
    generator = build_generator(config, dataset, accelerator.num_processes, parts)
    encoder: NACEncoder | None = None
    discriminator: nn.Module
    groups: list[dict[str, Any]] = []  # of parameters with learning rates of their own
    if options.network == "sngan":
        with seeded(config.seed, "discriminator"):
            discriminator = SNGANDiscriminator(num_classes=generator.num_classes)
    elif is_own(options.network):
        own = parts.find("discriminator", "discriminator.network", options.network)
        sizes: dict[str, Any] = {
            "image_size": dataset.image_size,
            "num_classes": generator.num_classes,
        }
        start = None
        if config.encoder is not None:  # with the weights of the arm, for a function that takes it
            encoder = NACEncoder.from_pretrained(config.encoder, backbone=parts.backbone)
            images = to_float(dataset.read(stream.indices(0)))
            start = source_of_weights(encoder, config.source, images, config.seed)
        network = own_network("discriminator", own, config.seed, encoder=start, **sizes)
        discriminator = OwnDiscriminator(network, **sizes)
        if accelerator.num_processes > 1 and _has_batch_norm(network):
            raise ConfigurationError(
                "discriminator.network has BatchNorm, which cannot be over several processes, since penalties "
                f"differentiate it twice, got {accelerator.num_processes} processes. Start one, or give the "
                "network GroupNorm."
            )
    else:
        path = config.encoder or DIGITS_ENCODER
        encoder = NACEncoder.from_pretrained(path, backbone=parts.backbone)
        part = into_discriminator(
            encoder,
            mode=options.mode,
            image_size=dataset.image_size,
            source=config.source,
            calibration_images=to_float(dataset.read(stream.indices(0))),
            head=options.head,
            return_nodes=options.return_nodes,
            spectral_norm=options.spectral_norm,
            num_classes=generator.num_classes,
            seed=config.seed,
        )
        accelerator.print(part.report, file=sys.stderr)
        discriminator = part.module
        multiplier = options.trunk_lr_multiplier
        groups = part.param_groups(optim.learning_rate, trunk_multiplier=multiplier)
    device = accelerator.device
    generator = generator.to(memory_format=torch.channels_last).to(device)
    discriminator = discriminator.to(memory_format=torch.channels_last).to(device)
    adam = partial(torch.optim.Adam, lr=optim.learning_rate, betas=(0.0, optim.beta2))
    optimizers = (adam(generator.parameters()), adam(groups or discriminator.parameters()))
    function = parts.find("augment", "augment.function", config.augment.function)
    augment = own_augmentation(function, device)
    update = GANUpdate(accelerator, generator, discriminator, *optimizers, config, augment)
    return update, encoder


def _synchronized(
    generator: Generator, what: str, replacement: str, num_processes: int
) -> Generator:
    """Make BatchNorm, if it has any, that of the batch of all processes."""
    if num_processes == 1 or not _has_batch_norm(generator):
        return generator
    if not torch.cuda.is_available():
        raise ConfigurationError(
            f"{what} has BatchNorm over the whole batch, which {num_processes} processes share on GPUs alone. "
            f"Start one process, or give {replacement}."
        )
    synchronized: Generator = nn.SyncBatchNorm.convert_sync_batchnorm(generator)
    return synchronized


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())
