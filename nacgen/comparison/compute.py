"""What each arm cost: wall time, device time, and its pretraining, shared among runs or charged to each.

Device time is wall time multiplied by the number of devices, so that runs side by side, each on a share
of the cores, compare with a pretraining that had all of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nacgen.reporting.blocks import Table
from nacgen.reporting.runs import Run
from nacgen.training.environment import describe_hardware


@dataclass(frozen=True, kw_only=True)
class ArmCost:
    """What the runs of one arm cost.

    Args:
        seconds: Wall time of each run, training and scoring.
        devices: What each run computed on, in words, each once.
        device_seconds: Mean device time of a run; None where the devices are of several kinds.
        pretraining: Cost of each encoder that the runs started from, each once; None where one is unknown.
        shared: Mean device time of a run with the pretraining shared among the runs; None where unlike
            devices or unknown costs do not add up.
        in_full: The same, charging to each run all that its encoder cost.
    """

    seconds: tuple[float, ...]
    devices: tuple[str, ...]
    device_seconds: float | None
    pretraining: tuple[Mapping[str, Any], ...] | None
    shared: float | None
    in_full: float | None


def arm_cost(runs: Sequence[Run]) -> ArmCost:
    """What the runs of one arm cost.

    Args:
        runs: Finished runs; each says in its summary, under `pretraining`, what its encoder cost: null for
            weights that were not pretrained.

    Returns:
        The cost.
    """
    seconds = [float((run.summary or {}).get("seconds", 0.0)) for run in runs]
    hardware = [describe_hardware(run.environment) for run in runs]
    encoders: dict[str, Any] = {}  # by path: runs of one encoder share one pretraining
    for run in runs:
        cost = (run.summary or {}).get("pretraining", "unknown")
        if run.config.get("init") == "random":
            cost = None
        encoders[str(run.config.get("encoder"))] = cost
    charged = [encoders[str(run.config.get("encoder"))] for run in runs]
    costs = [cost for cost in encoders.values() if cost is not None]
    pretraining = None if "unknown" in costs else tuple(costs)

    counts, units = zip(*map(_devices, hardware), strict=True)
    kinds = {*units, *(_devices(cost["hardware"])[1] for cost in pretraining or ())}
    device_seconds = shared = in_full = None
    if len(set(units)) == 1 and None not in units:
        device_seconds = fmean(n * time for n, time in zip(counts, seconds, strict=True))
    if device_seconds is not None and pretraining is not None and len(kinds) == 1:
        paid = [0.0 if cost is None else _device_seconds(cost) for cost in charged]
        shared = device_seconds + sum(map(_device_seconds, pretraining)) / len(runs)
        in_full = device_seconds + fmean(paid)
    return ArmCost(
        seconds=tuple(seconds),
        devices=tuple(dict.fromkeys(hardware)),
        device_seconds=device_seconds,
        pretraining=pretraining,
        shared=shared,
        in_full=in_full,
    )


def cost_table(arms: Mapping[str, Sequence[Run]]) -> Table:
    """Wall time and device time of every arm, without its pretraining and with it."""
    rows = []
    for arm, runs in arms.items():
        cost = arm_cost(runs)
        rows.append(
            [
                arm,
                str(len(runs)),
                ", ".join(cost.devices),
                f"{fmean(cost.seconds):,.1f}",
                f"{sum(cost.seconds):,.1f}",
                *map(_seconds, (cost.device_seconds, cost.shared, cost.in_full)),
            ]
        )
    header = ["Arm", "runs", "a run had", "s a run", "s in all"]
    return Table([*header, "device-s a run", "+ shared", "+ in full"], rows)


def pretraining_note(arms: Mapping[str, Sequence[Run]]) -> str:
    """What the pretraining of every arm's encoders cost, in a sentence."""
    parts = []
    for arm, runs in arms.items():
        costs = arm_cost(runs).pretraining
        said = "; ".join(
            f"{cost['images']:,} images, {cost['seconds']:,.0f} s on {cost['hardware']}"
            for cost in costs or ()
        )
        parts.append(f"{arm}: {'not recorded' if costs is None else said or 'none'}")
    return f"Pretraining of {'. Of '.join(parts)}."


COST_NOTE = (
    "Seconds (s) are wall time of training and scoring; runs that went side by side slowed each other down. "
    "Device-seconds multiply them by the cores or GPUs that a run had. The last two columns add the "
    "pretraining of the encoder: shared among the arm's runs, and charged to each run in full, as if it "
    "served no other. They are empty where the cost was not recorded, or fell on devices of another kind."
)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _device_seconds(cost: Mapping[str, Any]) -> float:
    return _devices(cost["hardware"])[0] * float(cost["seconds"])


def _devices(hardware: str) -> tuple[int, str | None]:
    """How many devices of what kind: `(2, "CPU core")` for `"2 CPU cores"`; of no one kind, None."""
    match = re.fullmatch(r"(\d+) (?:x ([^,]+)|(CPU core)s?)", hardware)
    return (1, None) if match is None else (int(match[1]), match[2] or match[3])
