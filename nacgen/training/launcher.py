"""Accelerate as a run uses it: its making, and the launcher's settings, which are checked here in one place."""

import os
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from nacgen.errors import ConfigurationError, LostProcessError
from nacgen.training.config import TrainingConfig

SHARDED = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "TP", "XLA")  # distributed types


def build_accelerator(path: Path, config: TrainingConfig, allow_fp16: bool) -> Accelerator:
    """Make the accelerator of a run in a folder, or refuse a setting of the launcher that is not supported."""
    # Two warnings of DistributedDataParallel that point to no fault. torch 2.15 renames broadcast_buffers, but
    # torch 2.10 and Accelerate do not know the new name. The gradient of a head with one output is a transposed
    # column.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    before = AcceleratorState._shared_state.get("num_processes", 1)
    if before > 1 and not dist.is_initialized():  # an earlier run ended the group, which forms once
        raise ConfigurationError(
            f"a program that a launcher starts in {before} processes trains one run, but a second was begun. Give "
            "each run a program of its own, or start the program without a launcher."
        )
    try:
        accelerator = Accelerator(
            # Explicit: under torchrun on a machine without a device each process would work alone.
            cpu=not torch.accelerator.is_available(),
            log_with=None if config.run.tracker == "none" else config.run.tracker,
            project_config=ProjectConfiguration(str(path), logging_dir=str(path / "tensorboard")),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(seconds=config.run.timeout)),
            ],
        )
        torch.zeros(1, device=accelerator.device).item()  # a device that is there and computes
    except dist.DistError as error:
        raise LostProcessError(
            f"all processes must meet within {config.run.timeout} s, but one did not come ({error}). See its own "
            "messages, and start all of them; if one is merely slow, raise --run.timeout."
        ) from error
    except (AssertionError, ImportError, KeyError, RuntimeError, ValueError) as error:
        given = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("ACCELERATE_")]
        raise ConfigurationError(
            f"the launcher's settings must be ones that Accelerate can give here, but are not ({error}). Correct "
            f"the flags of accelerate launch, its configuration file, or {', '.join(given) or 'ACCELERATE_*'}."
        ) from error
    _check(accelerator, allow_fp16)
    return accelerator


def _check(accelerator: Accelerator, allow_fp16: bool) -> None:
    """Raise a `ConfigurationError` for settings of the launcher under which training would be another one."""
    precision, steps = accelerator.mixed_precision, accelerator.gradient_accumulation_steps
    backend = accelerator.state.dynamo_plugin.backend.value
    distributed = accelerator.distributed_type.value
    wrong = None
    if precision not in ("no", "bf16", "fp16"):
        wrong = f"mixed precision must be no, bf16 or fp16, got {precision}. Launch with --mixed_precision bf16."
    elif precision == "fp16" and not allow_fp16:
        wrong = (
            "mixed precision must be no or bf16 for adversarial training and flows, got fp16: Accelerate's "
            "optimizers share one gradient scaler, which penalties overflow and clipping mistakes. Launch with "
            "--mixed_precision bf16."
        )
    elif steps != 1:
        wrong = (
            f"gradient accumulation must be 1 in the launcher, got {steps}: it would divide gradients that are "
            "never added up. Launch with --gradient_accumulation_steps 1, and without "
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS; GANs have --optim.micro-batches for less memory."
        )
    elif backend != "NO":
        wrong = (
            f"dynamo_backend must be no in the launcher, got {backend.lower()}: gradient penalties cannot be "
            "compiled. Launch with --dynamo_backend no, and without ACCELERATE_DYNAMO_BACKEND; pretraining has "
            "--model.compile."
        )
    elif distributed in SHARDED:
        wrong = (
            f"every process must have whole networks, got the launcher's distributed type {distributed}. Launch "
            "with --multi_gpu, without DeepSpeed, FSDP or Megatron."
        )
    if wrong:
        raise ConfigurationError(wrong)
