"""The cost of each arm: wall time, device time (wall time multiplied by devices), and pretraining."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nacgen.reporting.blocks import Table
from nacgen.reporting.recorded_runs import RecordedRun
from nacgen.training.environment import describe_hardware

COST_NOTE = (
    "Seconds (s) are wall time of training and scoring; runs side by side slow each other down. "
    "Device-seconds multiply them by the CPU threads or GPUs that a run had. The last two columns add the "
    "pretraining of the encoder: shared among the runs of the arm, and charged to each run in full, as if the "
    "encoder served no other run. They are empty where the cost was not recorded, or where devices differ in kind."
)


@dataclass(frozen=True)
class ArmCost:
    """The cost of the runs of one arm; a time is None if its parts are unknown or differ in kind of device."""

    seconds: tuple[float, ...]
    devices: tuple[str, ...]
    device_seconds: float | None
    pretraining: tuple[Mapping[str, Any], ...] | None  # of each encoder; None if one is unknown
    shared: float | None  # mean device time of a run and its part of the pretraining
    in_full: float | None  # mean device time of a run and all of the pretraining


def arm_cost(runs: Sequence[RecordedRun]) -> ArmCost:
    """Add up the cost of the finished runs of one arm."""
    seconds = [float((run.summary or {}).get("seconds", 0.0)) for run in runs]
    hardware = [describe_hardware(run.environment) for run in runs]
    devices = [_devices_in(words) for words in hardware]
    encoders: dict[str, Any] = {}  # by path: runs of one encoder share one pretraining
    for run in runs:
        cost = (run.summary or {}).get("pretraining", "unknown")
        encoders[str(run.config.get("encoder"))] = cost if run.arm != "random" else None
    costs = [cost for cost in encoders.values() if cost is not None]
    pretraining = None if "unknown" in costs else tuple(costs)

    kinds = {kind for _, kind in devices}
    device_seconds = shared = in_full = None
    if len(kinds) == 1 and None not in kinds:
        device_seconds = fmean(n * time for (n, _), time in zip(devices, seconds, strict=True))
        kinds |= {_devices_in(cost["hardware"])[1] for cost in pretraining or ()}
        if pretraining is not None and len(kinds) == 1:
            paid = {
                name: _devices_in(cost["hardware"])[0] * float(cost["seconds"])
                for name, cost in encoders.items()
                if cost is not None
            }
            shared = device_seconds + sum(paid.values()) / len(runs)
            of_each = (paid.get(str(run.config.get("encoder")), 0.0) for run in runs)
            in_full = device_seconds + fmean(of_each)
    in_words = tuple(dict.fromkeys(hardware))
    return ArmCost(tuple(seconds), in_words, device_seconds, pretraining, shared, in_full)


def cost_table(arms: Mapping[str, Sequence[RecordedRun]]) -> Table:
    """Tabulate wall time and device time of every arm, without its pretraining and with it."""
    rows = []
    for arm, runs in arms.items():
        cost = arm_cost(runs)
        seconds = cost.seconds
        times = (fmean(seconds), sum(seconds), cost.device_seconds, cost.shared, cost.in_full)
        cells = ["" if time is None else f"{time:,.1f}" for time in times]
        rows.append([arm, str(len(runs)), ", ".join(cost.devices), *cells])
    header = ["Arm", "runs", "a run had", "s a run", "s in all"]
    return Table([*header, "device-s a run", "+ shared", "+ in full"], rows)


def pretraining_note(arms: Mapping[str, Sequence[RecordedRun]]) -> str:
    """Say what the pretraining of every arm's encoders cost."""
    parts = []
    for arm, runs in arms.items():
        costs = arm_cost(runs).pretraining
        each = " and ".join(
            f"{cost['images']:,} images in {cost['seconds']:,.0f} s on {cost['hardware']}"
            for cost in costs or ()
        )
        parts.append(f"{arm}: {'not recorded' if costs is None else each or 'none'}")
    return f"Pretraining of the encoders. {'; '.join(parts)}."


def _devices_in(words: str) -> tuple[int, str | None]:
    """Read number and kind of devices in `"2 CPU threads"` or `"4 x NVIDIA H100"`; the kind is None if unknown.

    Earlier versions called threads cores.
    """
    match = re.fullmatch(r"(\d+) (?:x ([^,]+)|(CPU) (?:thread|core)s?)", words)
    return (1, None) if match is None else (int(match[1]), match[2] or match[3])
