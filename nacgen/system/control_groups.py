"""Limits that Linux's control groups set to a process, as those of containers and batch systems do."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def cpu_quota() -> float:
    """Return the CPU quota of this process in cores, infinity if there is none."""
    return _lowest("cpu", _quota_of)


def memory_limit() -> float:
    """Return the memory limit of this process in bytes, infinity if there is none."""
    return _lowest("memory", _memory_of)


def _lowest(controller: str, limit_of: Callable[[Path], float]) -> float:
    """Return the lowest limit of this process's control groups and those that hold them."""
    lines = []
    with suppress(OSError):  # Linux
        lines = (ROOT / "proc/self/cgroup").read_text("utf-8").splitlines()
    limits = [math.inf]
    for line in lines:
        controllers, _, name = line.partition(":")[2].partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree and no controllers here; in a container the group may itself be the root.
        group = PurePosixPath(name.lstrip("/"))
        for tree in {controllers, controller} if controllers else {"", "unified"}:
            mount = ROOT / "sys/fs/cgroup" / tree
            limits += [limit_of(mount / folder) for folder in (group, *group.parents)]
    return min(limits)


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


def _memory_of(group: Path) -> float:
    for name in ("memory.max", "memory.limit_in_bytes"):  # of versions 2 and 1
        with suppress(OSError, ValueError):  # "max": no limit
            return int((group / name).read_text())
    return math.inf
