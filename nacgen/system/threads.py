"""CPU threads: the cores that this process may use, and the number of threads for them. Does not import torch."""

import math
import os

from nacgen.system.control_groups import cpu_quota
from nacgen.system.signals import LAUNCHER_MARKS

# Processes on this host, according to torchrun and accelerate, Intel MPI, Open MPI and MVAPICH.
LOCAL_SIZES = (
    *("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS"),
    *("OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
)


def count_cores() -> int:
    """Return the number of CPU cores for this process, after its affinity and the quota of its container."""
    if hasattr(os, "process_cpu_count"):  # since Python 3.13
        cores = os.process_cpu_count()
    elif hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count()
    return max(1, math.ceil(min(cores or 1, cpu_quota())))


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
