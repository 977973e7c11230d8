"""Linear regions of a ReLU network along segments between images.

A ReLU network is linear where no ReLU switches. The number of regions that a straight segment crosses measures
how finely the network divides the space between two images. Within an augmentation orbit (between two views of
one image) an invariant network crosses few; between images a network that tells them apart crosses many.

Regions are defined by activation patterns: in rare cases two neighboring regions have the same linear map.

Source:
    Park et al. 2021, arXiv:2112.04014; Hanin & Rolnick 2019, arXiv:1906.00904, for regions along lines.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.probes.labeled import check_finite
from nacgen.probes.options import RegionMethod
from nacgen.probes.regions.breakpoints import Breakpoints, NeedsDoubleError, TooManyBreakpointsError
from nacgen.probes.regions.patterns import (
    Network,
    PatternCount,
    count_patterns,
    naswot,
    visit_relus,
)
from nacgen.probes.regions.segment_path import segment_path
from nacgen.system.randomness import generator

NASWOT_BATCH = 128
CHUNK = 500
# Numbers in one activation at all breakpoints; more is slower, for the sake of caches.
MAX_VALUES = 2**23
PREVIEW_POINTS = 33
CUT = 0.3819660112501051  # irrational, so that no ReLU of a symmetric example switches just there


@dataclass(frozen=True)
class SegmentCrossings:
    """Number of boundaries that segments of one kind cross; a segment passes through one region more.

    Lengths are Euclidean, for pixels in [-1, 1].
    """

    mean: float
    standard_error: float
    num_segments: int
    mean_length: float


@dataclass(frozen=True)
class RegionReport:
    """Fineness of a network's division of the image space.

    `between` has segments between different images, `within_orbit` between two views of one image.
    `output_codes` counts the signs of the output, `last_relu` the patterns of the last ReLU's units.
    """

    between: SegmentCrossings
    within_orbit: SegmentCrossings
    output_codes: PatternCount
    last_relu: PatternCount
    naswot: float
    protocol: dict[str, Any]


def measure_regions(
    network: Network,
    images: UInt8[Tensor, "n 3 h w"],
    views: ViewPolicy,
    *,
    num_segments: int = 128,
    seed: int = 0,
    method: RegionMethod = "exact",
    num_points: int = 512,
    device: torch.device | str = "cpu",
) -> RegionReport:
    """Measure a network's regions between images and within augmentation orbits.

    With `encoder.piecewise_linear_logits` the output's signs are the activation code and the last ReLU is that of
    the head's hidden units. Networks measured with one seed meet the same segments. The method `"sampled"` gives
    a lower bound for large networks, from `num_points` of each segment.
    """
    if len(images) < 2:
        raise ValueError(f"images must be two or more, got {len(images)}. Give more.")

    def count(start: Tensor, end: Tensor) -> SegmentCrossings:
        if method == "exact":
            crossings = segment_crossings(network, start, end)
        else:
            crossings = sampled_crossings(network, start, end, num_points)
        error = float(crossings.double().std()) / math.sqrt(len(crossings))
        length = (end - start).flatten(1).norm(dim=1).mean()
        return SegmentCrossings(
            float(crossings.double().mean()), error, len(crossings), float(length)
        )

    ends = (generator(seed, "region_start"), generator(seed, "region_end"))
    first = torch.randint(len(images), (num_segments,), generator=ends[0])
    other = torch.randint(len(images) - 1, (num_segments,), generator=ends[1])
    second = other + (other >= first)  # any image but the first
    batch = Batch(images[first].to(device), None, seed, 0, num_segments, 0)
    order = torch.randperm(len(images), generator=generator(seed, "region_naswot"))
    chosen = order[:NASWOT_BATCH]
    outputs, last_relu = _patterns(network, images, device)
    return RegionReport(
        between=count(to_float(images[first].to(device)), to_float(images[second].to(device))),
        within_orbit=count(
            random_view(batch, views, "region_view_1"), random_view(batch, views, "region_view_2")
        ),
        output_codes=count_patterns(outputs),
        last_relu=count_patterns(last_relu),
        naswot=naswot(network, to_float(images[chosen].to(device))),
        protocol={
            "method": method,
            "num_points": num_points if method == "sampled" else None,
            "num_segments": num_segments,
            "seed": seed,
            "num_images": len(images),
            "naswot_images": len(chosen),
            "views": str(views),
        },
    )


def _patterns(
    network: Network, images: Tensor, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Return signs of the output and patterns of the last ReLU, (n, k) and (n, u)."""
    outputs, last_relu = [], []
    for chunk in images.split(CHUNK):
        seen: list[Tensor] = []

        def keep(pre_activation: Tensor, seen: list[Tensor] = seen) -> None:
            seen[:] = [(pre_activation > 0).flatten(1).cpu()]

        output = visit_relus(network, to_float(chunk.to(device)), keep)
        check_finite("the network's outputs", output)
        outputs.append((output >= 0).flatten(1).cpu())
        last_relu += seen
    return torch.cat(outputs), torch.cat(last_relu)


def segment_crossings(
    network: Network,
    start: Float[Tensor, "s ..."],
    end: Float[Tensor, "s ..."],
    max_crossings: int = 100_000,
) -> Int64[Tensor, " s"]:
    """Count the boundaries of linear regions that segments cross, ends excluded; one count each.

    A boundary is a point where a ReLU changes sign, or where the maximum of a max-pooling window passes to
    another entry. Points nearer than 1e-12 of a segment count once. A segment costs about one forward pass for
    each crossing: a second for small networks, an hour for a ResNet-18 at 32 px. The passes are in float32, and in
    float64 where rounding could change the count, by an error that is estimated at a few points of each part;
    with max-pooling all are. A ValueError names what is not piecewise linear, and segments with more than
    `max_crossings`.
    """
    preview = sampled_crossings(network, start, end, PREVIEW_POINTS)
    if len(preview) and int(preview.max()) > max_crossings:
        _too_many(max_crossings, int(preview.argmax()), int(preview.max()))
    counts, is_exact, parts = [], False, [start.new_tensor([[0.0, 1.0]], dtype=torch.float64)]
    for index, ends in enumerate(zip(start.double(), end.double(), strict=True)):

        def count(parts: list[Tensor], is_exact: bool, index: int = index, ends: Any = ends) -> int:
            crossings = 0
            for certain, doubtful in _search(network, ends, parts, is_exact):
                crossings += certain + (count([doubtful], True) if len(doubtful) else 0)
                if crossings > max_crossings:
                    _too_many(max_crossings, index, crossings)
            return crossings

        try:  # the next segment starts from the parts of this one
            counts.append(count(parts, is_exact))
        except NeedsDoubleError:
            is_exact = True
            counts.append(count(parts, is_exact))
    return torch.tensor(counts, dtype=torch.int64)


@torch.no_grad()
def _search(
    network: Network, ends: tuple[Tensor, Tensor], parts: list[Tensor], is_exact: bool
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of certain breakpoints in each part, a set of intervals, and where others may be.

    Parts with more breakpoints than fit into memory are replaced by smaller ones in the list.
    """
    index = 0
    while index < len(parts):
        part = parts[index]
        breakpoints = Breakpoints(part, MAX_VALUES, is_exact)
        try:
            network(segment_path(*ends, breakpoints))
        except TooManyBreakpointsError:
            if len(part) == 1:
                low, high = part[0].tolist()
                cut = low + CUT * (high - low)
                part = part.new_tensor([[low, cut], [cut, high]])
            parts[index : index + 1] = part.chunk(2)
            continue
        yield breakpoints.resolve()
        index += 1


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
    counts = torch.zeros(len(start), dtype=torch.int64)
    times = torch.linspace(0, 1, num_points, dtype=start.dtype, device=start.device)
    times = times.view(-1, *[1] * (start.ndim - 1))
    for index, (first, last) in enumerate(zip(start, end, strict=True)):

        def count_changes(pre_activation: Tensor, index: int = index) -> None:
            is_on = pre_activation > 0
            counts[index] += (is_on[1:] != is_on[:-1]).sum().cpu()

        visit_relus(network, torch.lerp(first, last, times), count_changes)
    return counts


def _too_many(max_crossings: int, index: int, crossings: int) -> NoReturn:
    raise ValueError(
        f"a segment may cross max_crossings={max_crossings:,} boundaries, but segment {index} crosses "
        f"{crossings:,} or more. Use sampled_crossings, or raise max_crossings and wait."
    )
