"""Breakpoints of a network along a segment: those that are certain in float32, and where to look again.

A value in float32 with an error of at most `e` leaves open what happens while it lies within `e` of zero. A ReLU
whose input goes from one side of this band to the other, with no breakpoint inside or with one that it
passes in one direction, switches once. One that turns around within the band may switch twice or not at all.
Two switches whose times may be equal, up to their errors, may be one. Both are looked at again in float64.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 1e-12  # breakpoints nearer than this are one: equal units cross together up to rounding
PROBES = 8  # points at which the error in float32 is measured
SAME = 0.25  # part of their errors' bounds by which the times of equal units differ at most


class TooManyBreakpointsError(Exception):
    """A sign that values at the breakpoints would not fit into memory; the segment is halved."""


class NeedsDoubleError(Exception):
    """A sign of an operation whose breakpoints are followed in float64 only."""


class Breakpoints:
    """Breakpoints of all ReLUs and max-pools of a network in some intervals of one segment.

    Args:
        intervals: Start and end of each interval in [0, 1], ascending; nothing is looked for between them.
        max_values: Number of values that one activation may hold at all its breakpoints together.
        is_exact: True to work in float64, False for float32.
    """

    def __init__(self, intervals: Float[Tensor, "i 2"], max_values: int, is_exact: bool) -> None:
        self.intervals, self.max_values, self.is_exact = intervals, max_values, is_exact
        # Rows of earliest, likely and latest time; NaN if there may be none.
        self.found: list[Tensor] = []
        count = 0 if is_exact else PROBES
        fractions = (torch.arange(count, device=intervals.device) + 0.618).double() / PROBES
        self.probes = torch.lerp(intervals[0, 0], intervals[-1, 1], fractions)

    def resolve(self) -> tuple[int, Float[Tensor, "j 2"]]:
        """Return the number of breakpoints that are certain, and the intervals to look at in float64."""
        found = torch.cat([self.intervals.new_empty(0, 3), *self.found])
        early, time, late = found.T
        if self.is_exact or len(found) == 0:
            return len(separate(time)), self.intervals[:0]
        is_sure = ~time.isnan()
        time, order = torch.where(is_sure, time, (early + late) / 2).sort()
        radius = (late - early)[order] / 2
        late = late[order].cummax(0).values
        early = early[order].flip(0).cummin(0).values.flip(0)
        # Clusters of breakpoints that errors may have put in another order.
        is_new = early[1:] > late[:-1]
        is_first, is_last = (F.pad(is_new, side, value=True) for side in ((1, 0), (0, 1)))
        cluster = is_first.cumsum(0) - 1
        # In a cluster that has a doubtful one all are counted again.
        is_near = time.diff() < SAME * (radius[1:] + radius[:-1])
        is_doubtful = ~is_sure[order] | F.pad(is_near, (1, 0)) | F.pad(is_near, (0, 1))
        doubts = torch.bincount(cluster, is_doubtful) > 0
        again = torch.stack([early[is_first], late[is_last]], dim=1)[doubts]
        again = again.clamp(self.intervals[0, 0], self.intervals[-1, 1])
        return int((~doubts[cluster]).sum()), again


def separate(times: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """Sort times and drop those within `TOLERANCE` of the one before."""
    times = times.sort().values
    keep = torch.ones_like(times, dtype=torch.bool)
    keep[1:] = times.diff() > TOLERANCE
    return times[keep]
