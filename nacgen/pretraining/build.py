"""From the options of pretraining to its encoder, views, images and update."""

from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from nacgen.data.augment import Augmentation, ViewPolicy
from nacgen.data.datasets import Dataset
from nacgen.data.provenance import no_labels
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, DataError
from nacgen.models.backbones import BACKBONES
from nacgen.models.encoder import NACEncoder
from nacgen.models.own_network import own_network
from nacgen.pretraining.base import MomentumEncoder, StagedEncoder
from nacgen.pretraining.distillhash import NOISY_PART, NUM_IMAGES, DistillHashUpdate
from nacgen.pretraining.nac import NACQueueUpdate, NACUpdate
from nacgen.pretraining.options import PretrainConfig, ViewConfig
from nacgen.pretraining.simclr import SimCLRUpdate
from nacgen.pretraining.supervised import CodeClassifier, SupervisedUpdate
from nacgen.probes.retrieval.protocols import load_protocol
from nacgen.system.own_parts import is_own
from nacgen.system.randomness import seeded
from nacgen.training.optimizers import build_optimizer
from nacgen.training.parts import NO_PARTS, Parts, load_train_and_test
from nacgen.training.run import TrainingResult
from nacgen.training.update import Update


def build_encoder(config: PretrainConfig, parts: Parts = NO_PARTS) -> NACEncoder:
    """Build or load the encoder that a run starts from."""
    if config.encoder is not None:
        encoder = NACEncoder.from_pretrained(config.encoder, backbone=parts.backbone)
    else:
        options = asdict(config.model)
        options.pop("compile")
        if is_own(name := config.model.backbone):
            part = parts.find("backbone", "model.backbone", name)
            options["backbone"] = own_network("backbone", part, config.seed)
        with seeded(config.seed, "encoder"):
            encoder = NACEncoder(**options)
    if config.objective != "nac":  # a posterior has no part in the loss
        for name, parameter in encoder.named_parameters():
            if name.startswith("posterior"):  # else a process group would wait for its gradient
                parameter.requires_grad_(False)
    return encoder.to(memory_format=torch.channels_last)  # half as fast again on CPUs


def use_note(encoder: NACEncoder) -> str | None:
    """Return a warning for an encoder whose trunk cannot be transplanted, None for others."""
    if encoder.backbone.has_stages:
        return None
    return (
        f"warning: an encoder on {encoder.backbone_name} can be transplanted frozen only (--discriminator.mode "
        "frozen), and into no encoder of a VAE: the stages of its trunk are not known. For those, pretrain one of "
        f"{', '.join(BACKBONES)}."
    )


def pretraining_cost(
    config: PretrainConfig, encoder: NACEncoder, result: TrainingResult, hardware: str
) -> dict[str, Any] | None:
    """Return the cost of an encoder's weights, that of the encoder it started from included, if known."""
    cost = {"images": result.images_seen, "seconds": round(result.seconds, 1)}
    if config.encoder is None:
        return cost | {"hardware": hardware}
    before = encoder.pretraining
    if before is None:
        return None
    return {
        "images": before["images"] + cost["images"],
        "seconds": before["seconds"] + cost["seconds"],
        "hardware": ", then ".join(dict.fromkeys([before["hardware"], hardware])),
    }


def build_views(views: ViewConfig, function: Augmentation | None = None) -> ViewPolicy:
    """Return the distribution of views that the options describe, or that a function of the user's own draws."""
    return ViewPolicy(
        function=function,
        crop_scale=(views.smallest_crop, 1.0),
        flip=views.flip,
        jitter=views.jitter,
        saturation=views.jitter,
        hue=views.hue,
        grayscale_probability=views.grayscale_probability,
        size=views.size,
    )


def load_training_images(
    config: PretrainConfig, parts: Parts = NO_PARTS
) -> tuple[Dataset, Dataset]:
    """Load the images to train on, and held-out ones to evaluate the encoder with.

    They are the splits of the dataset, or training images and queries of a retrieval protocol. For DistillHash
    the training images are thinned to the number whose pairs are labelled.
    """
    train, test = load_train_and_test(config, parts)
    if config.protocol is not None:
        train, test = load_protocol(config.protocol, train, test, config.seed)
    if config.objective == "supervised" and train.labels is None:
        raise DataError(
            f"a supervised encoder needs labels, but {config.dataset} has {no_labels(train)}. Put the images "
            "of each class into a subfolder of its own."
        )
    if config.objective == "distillhash" and len(train) > NUM_IMAGES:
        train = train.subset(torch.linspace(0, len(train) - 1, NUM_IMAGES).long())
    return train, test


def build_update(
    config: PretrainConfig,
    accelerator: Accelerator,
    encoder: NACEncoder,
    views: ViewPolicy,
    stream: ImageStream,
    images: Dataset,
) -> Update:
    """Build the update of the configured objective."""
    if stream.local_size < 2:
        raise ConfigurationError(
            f"each process needs two images or more in a batch for BatchNorm, got {config.batch_size} for "
            f"{accelerator.num_processes} processes. Raise --batch-size."
        )
    posterior = encoder.options["posterior"]
    if config.nac.relaxation == "direction" and posterior != "shared":
        raise ConfigurationError(
            f"relaxation direction compares codes, and needs the posterior shared, got {posterior}. Change "
            "--model.posterior, or take --nac.relaxation closed_form."
        )
    # The network that trains: the encoder alone, with heads on its stages, or with a classifier.
    network: NACEncoder | StagedEncoder | CodeClassifier = encoder
    staged = keys = None
    if config.objective == "supervised":
        assert images.labels is not None  # load_training_images refuses a dataset without
        with seeded(config.seed, "classifier"):
            network = CodeClassifier(encoder, len(images.class_names))
    elif config.stages:
        with seeded(config.seed, "stages"):
            network = staged = StagedEncoder(encoder, config.stages)
    network.to(accelerator.device)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        encoder.backbone = encoder.backbone.synchronized()
        heads = (encoder.code_head, encoder.posterior_head, staged and staged.heads)
        for each in filter(None, heads):
            nn.SyncBatchNorm.convert_sync_batchnorm(each)  # in place
    if config.queue.size:
        keys = MomentumEncoder(encoder, config.queue.size, config.queue.momentum)
    if config.model.compile:
        network.compile(dynamic=False)
    optim = config.optim
    optimizer = build_optimizer(optim.name, network, optim.learning_rate, optim.weight_decay)
    if isinstance(network, CodeClassifier):
        return SupervisedUpdate(accelerator, network, optimizer, views)
    parts = (accelerator, encoder, optimizer, views)
    if config.objective == "distillhash":
        return DistillHashUpdate(*parts, stream, images, int(NOISY_PART * config.total_images))
    if config.objective == "simclr":
        return SimCLRUpdate(*parts, config.nac, keys, staged, config.temperature)
    update = NACUpdate if keys is None else NACQueueUpdate
    return update(*parts, config.nac, keys, staged)
