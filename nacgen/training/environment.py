"""The machine, devices and versions of a run, for readers of its figures. Does not import torch to read them."""

import contextlib
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nacgen.system.documents import flatten, read_yaml, strict_json
from nacgen.system.files import read_regular
from nacgen.system.threads import automatic_threads
from nacgen.training.config import MAX_THREADS
from nacgen.training.fingerprints import LARGEST
from nacgen.training.run_folder import CONFIG, ENVIRONMENT
from nacgen.version import __version__

if TYPE_CHECKING:
    from accelerate import Accelerator


def read_environment(folder: Path) -> dict[str, Any] | None:
    """Return the `environment.json` of a run, None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        there = strict_json(read_regular(folder / ENVIRONMENT, LARGEST))
        return there if isinstance(there, dict) else None
    return None


def choose_threads(
    given: int | None, folder: Path, before: Mapping[str, Any] | None, num_processes: int
) -> tuple[int, list[str]]:
    """Return the number of CPU threads of each process of a run, and words for the terminal.

    It is the number given, else that of the environment `before` if it had as many processes (None: a new run),
    else the automatic one.
    """
    automatic, remark = automatic_threads(), []
    threads = given or automatic
    if (
        given is None
        and before is not None
        and before.get("num_processes", num_processes) == num_processes
    ):
        # A run of an earlier version has no such option.
        kept = flatten(read_yaml(folder / CONFIG)).get("run.num_threads") or before.get("threads")
        if isinstance(kept, int) and 1 <= kept <= MAX_THREADS and kept != automatic:
            suits = f"--run.num-threads {automatic} suits this machine, but rounds differently"
            remark = [f"as before; {suits}"]
            threads = kept
    each = " a process" if num_processes > 1 else ""
    return threads, [f"{_in_words(threads)}{each}", *remark]


def describe_hardware(environment: Mapping[str, Any]) -> str:
    """Return the devices in an `environment.json` in words: `"2 CPU threads"`, `"4 x NVIDIA H100"`."""
    processes, device = environment.get("num_processes", 1), environment.get("device", "cpu")
    if not device.startswith("cpu"):
        return f"{processes} x {environment.get('gpu') or device}"
    if "threads" not in environment:
        return "unknown hardware"
    return _in_words(processes * environment["threads"])


def _in_words(threads: int) -> str:
    return f"{threads} CPU thread{'s' if threads > 1 else ''}"


def describe_environment(recipe: str, accelerator: "Accelerator") -> dict[str, Any]:
    """Return the contents of `environment.json` for a recipe such as `"train_gan"`.

    `hardware` holds kind, number and name of the devices that the run computes on; a CPU counts by threads.
    """
    import torch

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
