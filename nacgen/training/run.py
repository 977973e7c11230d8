"""Accelerate's part: devices, processes, precision, trackers."""

import dataclasses
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from nacgen.errors import ConfigurationError
from nacgen.training.config import TrainingConfig
from nacgen.training.loop import TrainingResult
from nacgen.training.run_folder import RunFolder


def open_run(
    name: str, config: TrainingConfig, allow_fp16: bool = True
) -> tuple[RunFolder, Accelerator]:
    """Look at the run folder and set up Accelerate; nothing is written yet.

    Args:
        name: Of recipe and preset; the default run folder is runs/<name>-seed<seed>.
        config: The run's configuration.
        allow_fp16: False for adversarial training.

    Returns:
        The run folder, and an Accelerator with the processes and the precision that the launcher chose.

    Raises:
        ConfigurationError: The tracker is not installed, the run folder holds another run, or the launcher
            chose fp16 where it is not allowed.
    """
    tracker = None if config.run.tracker == "none" else config.run.tracker
    if (
        tracker is not None and importlib.util.find_spec(tracker) is None
    ):  # Accelerate would pass it over
        raise ConfigurationError(
            f"run.tracker {tracker} needs the package {tracker}, which is not installed. "
            f"pip install {tracker}, or use --run.tracker none."
        )
    _silence_torch()
    run = RunFolder(name, config)
    accelerator = Accelerator(
        # Said outright: under torchrun on a machine without a device each process would work alone.
        cpu=not torch.accelerator.is_available(),
        log_with=tracker,
        project_config=ProjectConfiguration(
            str(run.path), logging_dir=str(run.path / "tensorboard")
        ),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(seconds=config.run.timeout)),
        ],
    )
    run.is_main = accelerator.is_main_process
    if accelerator.mixed_precision == "fp16" and not allow_fp16:
        raise ConfigurationError(
            "mixed precision must be no or bf16 for adversarial training, got fp16: Accelerate's optimizers "
            "share one gradient scaler, and gradient penalties overflow in it. Launch with "
            "--mixed_precision bf16."
        )
    return run, accelerator


def _silence_torch() -> None:
    """Two warnings of DistributedDataParallel that speak of no fault of a run."""
    # torch 2.15 renames it; the new name is unknown to torch 2.10, and to Accelerate.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    # The gradient of a head with one output comes as a transposed column, 64 numbers in all.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)


def finish(
    run: RunFolder,
    result: TrainingResult | None = None,
    report: Callable[[Path], str] | None = None,
    **extra: Any,
) -> None:
    """Mark a run complete and print its summary as the last line of stdout, on the main process.

    Args:
        run: The run.
        result: How training ended. Absent: the run was complete before, and its summary is repeated.
        report: Writes reports into the run folder; what it returns goes to stderr.
        extra: JSON values added to the summary.
    """
    if not run.is_main:
        return
    if result is None:
        print(f"{run.path} holds this run, complete; nothing to do", file=sys.stderr)
    else:
        summary = {"run_dir": str(run.path), **dataclasses.asdict(result), **extra}
        run.write_summary(summary | summary.pop("evaluation"))
    if report is not None:
        print(f"\n{report(run.path)}\n", file=sys.stderr)
    print(json.dumps(run.read_summary()), flush=True)
    run.release()
