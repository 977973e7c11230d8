"""The machine, devices and versions of a run, for readers of its figures."""

import contextlib
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from nacgen.version import __version__


def describe_hardware(environment: Mapping[str, Any]) -> str:
    """Return the devices in an `environment.json` in words: `"2 CPU cores"`, `"4 x NVIDIA H100"`."""
    processes, device = environment.get("num_processes", 1), environment.get("device", "cpu")
    if not device.startswith("cpu"):
        return f"{processes} x {environment.get('gpu') or device}"
    if "threads" not in environment:
        return "unknown hardware"
    cores = processes * environment["threads"]
    return f"{cores} CPU core{'s' if cores > 1 else ''}"


def describe_environment(recipe: str, accelerator: Accelerator) -> dict[str, Any]:
    """Return the contents of `environment.json` for a recipe such as `"train_gan"`.

    `hardware` holds kind, number and name of the devices that the run computes on; those of a CPU are cores.
    """
    packages = ("torch", "torchvision", "accelerate", "safetensors", "numpy")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    kind, processes = accelerator.device.type, accelerator.num_processes
    threads = torch.get_num_threads()
    return {
        "recipe": recipe,
        "command": sys.argv,
        "python": platform.python_version(),
        # Not platform.platform() and platform.processor(), which start a process to ask.
        "platform": f"{platform.system()} {platform.release()}",
        "versions": {"nacgen": __version__, **{name: version(name) for name in packages}},
        "processor": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": threads,
        "gpu": gpu,
        "device": str(accelerator.device),
        "num_processes": processes,
        "mixed_precision": accelerator.mixed_precision,
        "gradient_accumulation": accelerator.gradient_accumulation_steps,
        "dynamo_backend": accelerator.state.dynamo_plugin.backend.value.lower(),
        "hardware": {
            "kind": kind,
            "count": processes * (threads if kind == "cpu" else 1),
            "name": _cpu_name() if kind == "cpu" else gpu or kind,
        },
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open() as file:  # Linux
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
