"""Counts of the boundaries of linear regions that straight segments between images cross.

Source:
    Hanin & Rolnick 2019, arXiv:1906.00904, for regions along lines.
"""

from typing import NoReturn

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nacgen.probes.labeled import check_finite
from nacgen.probes.regions.patterns import Network, visit_relus
from nacgen.probes.regions.segment_path import Breakpoints, TooManyBreakpointsError, segment_path

MAX_VALUES = 2**24  # numbers in one activation at all breakpoints, 128 MB in float64
PREVIEW_POINTS = 33
CUT = 0.3819660112501051  # irrational, so that no ReLU of a symmetric example switches just there


def segment_crossings(
    network: Network,
    start: Float[Tensor, "s ..."],
    end: Float[Tensor, "s ..."],
    max_crossings: int = 100_000,
) -> Int64[Tensor, " s"]:
    """Count exactly the boundaries of linear regions that segments cross, ends excluded; one count each.

    A boundary is a point where a ReLU changes sign, or where the maximum of a max-pooling window passes to
    another entry. Points nearer than 1e-12 of a segment count once. A segment costs about one float64 forward
    pass for each crossing: seconds for small networks, hours for a ResNet-18 at 32 px. A ValueError names what
    is not piecewise linear, and segments with more than `max_crossings`.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU()).eval()
        >>> _ = network[0].weight.data.fill_(1.0), network[0].bias.data.copy_(torch.tensor([0.0, 0.5, 2.0]))
        >>> segment_crossings(network, start=torch.tensor([[-1.0]]), end=torch.tensor([[1.0]]))
        tensor([2])
    """
    _check_ends(start, end)
    preview = sampled_crossings(network, start, end, PREVIEW_POINTS)
    if len(preview) and int(preview.max()) > max_crossings:
        _too_many(max_crossings, int(preview.argmax()), int(preview.max()))
    counts = []
    with torch.no_grad():
        for index, (first, last) in enumerate(zip(start.double(), end.double(), strict=True)):
            crossings, pieces = 0, [(0.0, 1.0)]
            while pieces:
                low, high = pieces.pop()
                breakpoints = Breakpoints(MAX_VALUES)
                path = segment_path(
                    torch.lerp(first, last, low), torch.lerp(first, last, high), breakpoints
                )
                try:
                    network(path)
                except TooManyBreakpointsError:
                    middle = low + CUT * (high - low)
                    pieces += [(middle, high), (low, middle)]
                    continue
                crossings += breakpoints.count()
                if crossings > max_crossings:
                    _too_many(max_crossings, index, crossings)
            counts.append(crossings)
    return torch.tensor(counts, dtype=torch.int64)


def sampled_crossings(
    network: Network,
    start: Float[Tensor, "s ..."],
    end: Float[Tensor, "s ..."],
    num_points: int = 512,
) -> Int64[Tensor, " s"]:
    """Count ReLUs that differ between neighboring points of segments, a lower bound for large networks.

    A ReLU that switches twice between two of the equally spaced points is missed, and so are switches of
    max-pooling. ReLUs that switch at the same point count separately. Computed in the images' precision.
    """
    _check_ends(start, end)
    if num_points < 2:
        raise ValueError(f"num_points must be 2 or more, got {num_points}. 512 is usual.")
    counts = torch.zeros(len(start), dtype=torch.int64)
    times = torch.linspace(0, 1, num_points, dtype=start.dtype, device=start.device)
    times = times.view(-1, *[1] * (start.ndim - 1))
    for index, (first, last) in enumerate(zip(start, end, strict=True)):

        def count_changes(pre_activation: Tensor, index: int = index) -> None:
            is_on = pre_activation > 0
            counts[index] += (is_on[1:] != is_on[:-1]).sum().cpu()

        visit_relus(network, torch.lerp(first, last, times), count_changes)
    return counts


def _check_ends(start: Tensor, end: Tensor) -> None:
    if start.shape != end.shape:
        raise ValueError(
            f"start and end must have one shape, got {tuple(start.shape)} and {tuple(end.shape)}. Give row i "
            "of both the ends of segment i."
        )
    check_finite("start", start)
    check_finite("end", end)


def _too_many(max_crossings: int, index: int, crossings: int) -> NoReturn:
    raise ValueError(
        f"a segment may cross max_crossings={max_crossings:,} boundaries, but segment {index} crosses "
        f"{crossings:,} or more. Use sampled_crossings, or raise max_crossings and wait."
    )
