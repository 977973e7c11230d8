"""What every benchmark shares: taking turns, time and memory, and the row that says how it came out."""

import ctypes
import gc
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, NamedTuple, TypeVar

import psutil
import torch
from torch import Tensor

Work = Callable[[], Any]
T = TypeVar("T")
TOLERANCE = 0.1  # of an exponent


class Size(NamedTuple):
    """How much is measured: a smoke run for the tests, a quick one of minutes, the full one."""

    name: str
    turns: int

    def of(self, smoke: T, quick: T, full: T) -> T:
        """The argument that belongs to this size."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.name]


SIZES = {size.name: size for size in (Size("smoke", 1), Size("quick", 3), Size("full", 7))}


class Cost(NamedTuple):
    """Seconds on the clock, and seconds of processors over all threads and child processes."""

    wall: float
    cpu: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement, beside a peer's where there is one.

    Args:
        what: Is measured.
        peer: Whom `theirs` belongs to; empty where a target stands alone.
        ours: Cost in each turn, in `unit`; smaller is better.
        theirs: The peer's, turn by turn.
        unit: `"s"`, `"MB"`, or anything else, which is printed as it is.
        items: What one turn works on, as in `(128, "images")`; rates are printed in place of seconds.
        cpu: Ratio of processor seconds, theirs to ours.
        at_least: Target for the ratio of theirs to ours.
        at_most: Target for ours, in `unit`.
        agreement: How far the outputs differed that were compared before the clock ran.
        skipped: Why there is no figure, a peer that is not installed above all.
    """

    what: str
    peer: str = ""
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    unit: str = "s"
    items: tuple[int, str] | None = None
    cpu: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    agreement: str = ""
    skipped: str = ""

    def ratios(self) -> list[float]:
        """Theirs over ours of each turn; above 1 means that we are faster or smaller."""
        return [there / here for there, here in zip(self.theirs, self.ours, strict=True)]

    def is_met(self) -> bool | None:
        """Whether the target is met by the median; None without a target or a figure."""
        if self.skipped or (self.at_least is None and self.at_most is None):
            return None
        if self.at_least is not None:
            return median(self.ratios()) >= self.at_least
        return self.at_most is not None and median(self.ours) <= self.at_most


@dataclass(frozen=True)
class Growth:
    """What one work costs at rising sizes, and the powers of the size that theory allows.

    Args:
        what: Is done.
        unit: The sizes count.
        sizes: In rising order.
        seconds: At each size.
        megabytes: At each size.
        time: Exponent that the time may have.
        memory: Exponent that the memory may have.
    """

    what: str
    unit: str
    sizes: list[int]
    seconds: list[float]
    megabytes: list[float]
    time: float
    memory: float

    def exponents(self) -> tuple[float, float]:
        """Slopes of the logarithms of time and memory over that of the size, over the last doublings."""
        costs = self.seconds, [max(4.0, part) for part in self.megabytes]
        x, *both = [[math.log(each) for each in part[-4:]] for part in (self.sizes, *costs)]
        time, memory = (linear_regression(x, y).slope for y in both)
        return time, memory

    def is_met(self) -> bool:
        """Whether neither is above its theory."""
        pairs = zip(self.exponents(), (self.time, self.memory), strict=True)
        return all(found <= theory + TOLERANCE for found, theory in pairs)


def in_turns(
    what: str,
    peer: str,
    theirs: Work,
    ours: Work,
    turns: int,
    *,
    agreement: str,
    calls: int = 1,
    items: tuple[int, str] | None = None,
    at_least: float | None = None,
) -> Row:
    """Time both sides in the order A B B A, after one call of each to warm up.

    Args:
        what: Is measured.
        peer: Whose work `theirs` is.
        theirs: The peer's work.
        ours: The same by nacgen; what both give was compared before.
        turns: Of each side.
        agreement: What the comparison found, see `agree`.
        calls: Of the work in one turn, for work too short to time alone; costs are those of one call.
        items: What one call works on.
        at_least: Target for the ratio.

    Returns:
        The row, in seconds.
    """
    theirs(), ours()
    costs: dict[Work, list[Cost]] = {theirs: [], ours: []}
    for turn in range(turns):
        for work in (theirs, ours) if turn % 2 == 0 else (ours, theirs):
            costs[work].append(cost(work, calls))
        print(f"{what} against {peer}: turn {turn + 1} of {turns}", file=sys.stderr)
    cpu = [there.cpu / max(here.cpu, 1e-3) for there, here in zip(*costs.values(), strict=True)]
    return Row(
        what=what,
        peer=peer,
        ours=[c.wall for c in costs[ours]],
        theirs=[c.wall for c in costs[theirs]],
        items=items,
        cpu=median(cpu),
        at_least=at_least,
        agreement=agreement,
    )


def cost(work: Work, calls: int = 1) -> Cost:
    """What one of so many calls took, child processes at work included."""
    start, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(calls):
        work()
    return Cost((time.perf_counter() - start) / calls, (_cpu_seconds() - cpu) / calls)


def _cpu_seconds() -> float:
    """Of this process, of children that ended, and of those that still run."""
    process = psutil.Process()
    times = process.cpu_times()
    spent = time.process_time() + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            spent += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return spent


def peak_memory(work: Work) -> float:
    """Megabytes that a call adds to this process at its peak, above what it held before.

    Memory that was freed but not given back to the system would hide part of it, so it is given back first; the
    figure is most exact in the first call of a fresh process.

    Raises:
        SystemExit: The system is not Linux, whose `/proc` keeps and resets the peak.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("peak memory needs Linux's /proc/self/clear_refs. Leave this part out.")
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is held now
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1000


def _status(name: str) -> float:
    """One entry of the process's status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def agree(theirs: Tensor, ours: Tensor, tolerance: float, what: str = "outputs") -> str:
    """Compare before timing.

    Args:
        theirs: What the peer gives.
        ours: The same of nacgen.
        tolerance: Largest absolute difference.
        what: Is compared.

    Returns:
        A phrase for the table.

    Raises:
        SystemExit: They differ by more, or in shape.
    """
    if theirs.shape != ours.shape:
        raise SystemExit(f"{what}: shapes differ, {tuple(theirs.shape)} and {tuple(ours.shape)}.")
    largest = float((theirs.double() - ours.double()).abs().max())
    if not largest <= tolerance:
        raise SystemExit(f"{what} must agree to {tolerance:g}, but differ by {largest:.3g}.")
    return f"{what} differ by {largest:.1g}"


def missing(*distributions: str) -> str:
    """Which of these packages are not installed, as a reason to skip; empty where all are."""
    absent = []
    for name in distributions:
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(name)
    return f"{' and '.join(absent)} not installed" if absent else ""


def noise(n: int, size: int, seed: int = 0) -> Tensor:
    """Seeded uint8 images, (n, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, size, size), generator=generator).to(torch.uint8)
