"""What a run computes on and with, for whoever reads its figures."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from nacgen.version import __version__


def describe_hardware(environment: Mapping[str, Any]) -> str:
    """What a run computes on, in words.

    Args:
        environment: As in environment.json.

    Returns:
        `"2 CPU cores"`, `"4 x NVIDIA H100"` or `"unknown hardware"`.
    """
    processes, device = environment.get("num_processes", 1), environment.get("device", "cpu")
    if not device.startswith("cpu"):
        return f"{processes} x {environment.get('gpu') or device}"
    if "threads" not in environment:
        return "unknown hardware"
    cores = processes * environment["threads"]
    return f"{cores} CPU core{'s' if cores > 1 else ''}"


def describe_environment() -> dict[str, Any]:
    """What a reader needs to judge a run's figures: versions and hardware."""
    packages = ("torch", "torchvision", "accelerate", "safetensors", "numpy")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        # Not platform.platform() and platform.processor(), which start a process to ask.
        "platform": f"{platform.system()} {platform.release()}",
        "versions": {"nacgen": __version__, **{name: version(name) for name in packages}},
        "processor": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
