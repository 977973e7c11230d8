"""CPU threads: the cores that this process may use, and the number of threads for them. Does not import torch."""

import math
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from nacgen.system.signals import LAUNCHER_MARKS

# Processes on this host, according to torchrun and accelerate, Intel MPI, Open MPI and MVAPICH.
LOCAL_SIZES = (
    *("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS"),
    *("OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
)
ROOT = Path("/")


def count_cores() -> int:
    """Return the number of CPU cores for this process, after its affinity and the quota of its container."""
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        cores = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    quota = _quota()
    return max(1, cores or 1 if quota == math.inf else min(cores or 1, math.ceil(quota)))


def automatic_threads() -> int:
    """Return `OMP_NUM_THREADS` where it is the user's, else the cores divided by the processes on this host.

    `accelerate launch` and torchrun set 1 where nothing is set: under them a 1 is not taken for the user's.
    """
    asked = _whole_number("OMP_NUM_THREADS")
    if asked > 1 or (asked == 1 and not any(mark in os.environ for mark in LAUNCHER_MARKS)):
        return asked
    return max(1, count_cores() // max(1, *map(_whole_number, LOCAL_SIZES)))


def _whole_number(variable: str) -> int:
    """Return the first number of an environment variable, 0 if it has none."""
    first = os.environ.get(variable, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _quota() -> float:
    """Return the lowest CPU quota, in cores, of this process's control groups and those that hold them."""
    lines = []
    with suppress(OSError):  # Linux
        lines = (ROOT / "proc/self/cgroup").read_text("utf-8").splitlines()
    quotas = [math.inf]
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree and no controllers here; in a container the group may itself be the root.
        group = PurePosixPath(name.lstrip("/"))
        for tree in {controllers, "cpu"} if controllers else {"", "unified"}:
            mount = ROOT / "sys/fs/cgroup" / tree
            quotas += [_quota_of(mount / folder) for folder in (group, *group.parents)]
    return min(quotas)


def _quota_of(group: Path) -> float:
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (file := group / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota, period = (
                group.joinpath(f"cpu.cfs_{n}_us").read_text() for n in ("quota", "period")
            )
        if (cores := float(quota) / float(period)) > 0:  # else "max" or -1: no quota
            return cores
    return math.inf
