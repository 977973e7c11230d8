"""From the options of flow training to its networks and its update."""

import sys

import torch
from accelerate import Accelerator

from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream
from nacgen.flow.options import FlowConfig
from nacgen.flow.update import FlowUpdate
from nacgen.models.denoiser import Denoiser, denoiser_channels
from nacgen.models.encoder import NACEncoder
from nacgen.system.randomness import seeded
from nacgen.training.generative import DIGITS_ENCODER
from nacgen.training.parts import NO_PARTS, Parts
from nacgen.training.update import moving_average
from nacgen.transplant.alignment import Alignment, into_alignment

NUM_BLOCKS = {"small": 1, "unet": 2, "dit": 12}


def build_denoiser(config: FlowConfig, image_size: int) -> Denoiser:
    """Build the denoiser, the same in every arm."""
    options = config.network
    with seeded(config.seed, "denoiser"):
        return Denoiser(
            image_size,
            options.kind,
            options.channels or denoiser_channels(options.kind, image_size),
            options.num_blocks or NUM_BLOCKS[options.kind],
            options.dropout,
        )


def build_update(
    config: FlowConfig,
    accelerator: Accelerator,
    dataset: Dataset,
    stream: ImageStream,
    parts: Parts = NO_PARTS,
) -> tuple[FlowUpdate, NACEncoder | None]:
    """Build the networks, the optimizer and the update of a run; return the encoder it is aligned to, if any."""
    denoiser = build_denoiser(config, dataset.image_size)
    denoiser = denoiser.to(memory_format=torch.channels_last).to(accelerator.device)
    # Copied before there is a hook on the denoiser.
    half_life, device = config.ema_half_life, accelerator.device
    ema = moving_average(denoiser, config.batch_size, half_life, device)
    encoder: NACEncoder | None = None
    alignment: Alignment | None = None
    if config.needs_encoder:
        path = config.encoder or DIGITS_ENCODER
        encoder = NACEncoder.from_pretrained(path, backbone=parts.backbone)
        part = into_alignment(
            encoder,
            model=denoiser,
            layer=denoiser.alignment_layer,
            image_size=dataset.image_size,
            stage=config.alignment.stage,
            projector=config.alignment.projector,
            standardize=config.alignment.standardize,
            source=config.source,
            calibration_images=to_float(dataset.read(stream.indices(0))),
            seed=config.seed,
        )
        accelerator.print(part.report, file=sys.stderr)
        alignment = part.module
    rate = config.optim.learning_rate
    parameters = [*denoiser.parameters(), *(alignment.parameters() if alignment else ())]
    groups = [{"params": parameters, "ramp_images": config.warmup_images}]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    return FlowUpdate(accelerator, denoiser, ema, optimizer, config, alignment), encoder
