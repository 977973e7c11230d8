"""A flow model small enough for tests, the same on every process."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.flow.build import build_update
from nacgen.flow.options import AlignmentConfig, FlowConfig, NetworkConfig, OptimConfig
from nacgen.flow.update import FlowUpdate
from nacgen.training.config import RunConfig

BATCH = 8
SMALL = FlowConfig(
    total_images=5 * BATCH,
    batch_size=BATCH,
    network=NetworkConfig(channels=(8, 16)),
    run=RunConfig(log_every=BATCH, checkpoint_every=2 * BATCH, tracker="none"),
)


def build(
    rate: float = 1e-3,
    dropout: float = 0.0,
    until: float = 1.0,
    stage: str | None = None,
    network: NetworkConfig = SMALL.network,
    **options: Any,
) -> tuple[FlowUpdate, ImageStream, Accelerator]:
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    config = replace(
        SMALL,
        network=replace(network, dropout=dropout),
        alignment=AlignmentConfig(until=until, stage=stage),
        optim=OptimConfig(learning_rate=rate or 1e-3),
        **options,
    )
    dataset = load_dataset("digits")
    processes = accelerator.process_index, accelerator.num_processes
    stream = ImageStream(dataset, BATCH, config.seed, "cpu", *processes)
    update, _ = build_update(config, accelerator, dataset, stream)
    if rate == 0:
        for group in update.optimizers["flow"].param_groups:
            group["lr"] = 0.0
    return update, stream, accelerator


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
