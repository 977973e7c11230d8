"""Activations of a ReLU network along a straight segment of images.

Along a segment every activation of a ReLU network is a piecewise linear function of `t` in [0, 1], so its
values at the breakpoints determine it. A `SegmentPath` holds these values. It passes through the network as a
batch of one image: affine layers act on the values, and each ReLU adds the points where one of its inputs
changes sign, which linear interpolation finds exactly. Where branches of a residual network are added, both
receive the union of their breakpoints. One pass costs about one forward pass for each breakpoint.

In float32, where convolutions are several times faster, a path also carries float64 values at a few probes. They
bound the error of the others, and this bound tells which breakpoints are certain, see `Breakpoints`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from nacgen.probes.regions.breakpoints import (
    TOLERANCE,
    Breakpoints,
    NeedsDoubleError,
    TooManyBreakpointsError,
    separate,
)

# Errors of values in float32 are taken to be at most this multiple of the largest one at the probes.
SAFETY = 2.0
FAR_BELOW = -1e100  # padding that never wins a maximum, and can be interpolated
RELUS = ("relu", "relu_")
INSPECTIONS = ("__get__", "dim", "size", "__len__")  # answered with the shape of one image
SHAPES = ("view", "reshape", "flatten")
SUMS = ("add", "add_", "sub", "__rsub__", "neg", "cat")  # affine in all paths together
PRODUCTS = ("mul", "div")  # affine when the other factor is constant
AFFINE = (
    *("conv1d", "conv2d", "linear", "batch_norm", "mean", "pad"),
    *("avg_pool2d", "adaptive_avg_pool2d", "contiguous"),
)
IDENTITIES = ("dropout", "to")  # a path keeps its own precision
KNOWN = (*RELUS, "max_pool2d", *IDENTITIES, *SHAPES, *SUMS, *PRODUCTS, *AFFINE)


class SegmentPath(Tensor):
    """Values of one activation along a segment; networks see a batch of one image."""

    stands_for_others = True  # its numbers are not those of the image that networks see
    times: Tensor  # (m,) float64
    activations: Tensor  # (m, ...) at these times
    exact: Tensor  # float64, at the probes of the breakpoints
    breakpoints: Breakpoints

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"SegmentPath({len(self.times)} points, shape {tuple(self.shape)})"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace any torch function that is given a path; one that cannot be exact raises a ValueError."""
        kwargs = dict(kwargs or {})
        name = func.__name__
        if name in INSPECTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                shape = func(*args, **kwargs)
            if not isinstance(shape, Tensor):
                return shape
        paths = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, SegmentPath)]
        _check_operation(name, paths, args, kwargs)
        if name in RELUS:
            result = _relu(paths[0])
        elif name == "max_pool2d":
            result = _max_pool(paths[0], *args[1:], **kwargs)
        elif name in IDENTITIES:
            result = paths[0]
        else:
            result = _affine(func, paths, args, kwargs)
        is_in_place = name.endswith("_") and not name.endswith("__")  # add_, not __rsub__
        if not is_in_place and not kwargs.get("inplace"):
            return result
        args[0].times, args[0].activations = result.times, result.activations
        args[0].exact = result.exact
        return args[0]


def segment_path(
    start: Float[Tensor, "..."], end: Float[Tensor, "..."], breakpoints: Breakpoints
) -> SegmentPath:
    """Return the segment between two images, (c, h, w) in float64, as an input (1, c, h, w) of a network."""
    times = breakpoints.intervals.flatten()
    values, exact = (
        torch.lerp(start, end, at.view(-1, *[1] * start.ndim)) for at in (times, breakpoints.probes)
    )
    values = values if breakpoints.is_exact else values.float()
    return _make(times, values, exact, breakpoints)


def _make(times: Tensor, values: Tensor, exact: Tensor, breakpoints: Breakpoints) -> SegmentPath:
    path: SegmentPath = Tensor._make_subclass(SegmentPath, values[:1])  # sees one image
    path.times, path.activations, path.exact, path.breakpoints = times, values, exact, breakpoints
    return path


def _affine(
    func: Callable[..., Tensor], paths: list[SegmentPath], args: Any, kwargs: Any
) -> SegmentPath:
    """Apply a function that is affine in the paths, at the breakpoints of all of them."""
    times = max((path.times for path in paths), key=len)
    if any(path.times is not times for path in paths):
        together = separate(torch.cat([path.times for path in paths]))
        times = together if len(together) > len(times) else times
    call = partial(_apply, func, args, kwargs)
    dtype = paths[0].activations.dtype
    row = call(dtype, lambda path: path.activations[:1].clone())  # add_ would change it
    values: Tensor | None = None
    exact = paths[0].exact
    if row.shape[:1] == (1,):
        if func.__name__ in SHAPES:
            values = paths[0].activations.reshape(len(times), *row.shape[1:])
            exact = exact.reshape(len(exact), *row.shape[1:])
        else:
            values = call(dtype, lambda path: _values_at(path, times))
            exact = call(torch.float64, lambda path: path.exact) if len(exact) else exact
    if values is None or values.shape != (len(times), *row.shape[1:]):
        raise ValueError(
            f"the network must treat each image on its own, but {func.__name__} made {tuple(row.shape)} of a "
            "batch of one. Keep the first axis the batch."
        )
    return _make(times, values, exact, paths[0].breakpoints)


def _apply(
    func: Callable[..., Tensor],
    args: Any,
    kwargs: Any,
    dtype: torch.dtype,
    replace: Callable[[SegmentPath], Tensor],
) -> Tensor:
    """Call a function with plain tensors in place of paths, and constants in their precision."""

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, SegmentPath):
            return replace(leaf)
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.detach().to(dtype)
        return leaf

    args, kwargs = tree_map(plain, (args, kwargs))
    return func(*args, **kwargs)


def _check_operation(name: str, paths: list[SegmentPath], args: Any, kwargs: Any) -> None:
    is_training = kwargs.get("training", args[5] if len(args) > 5 else False)
    if name in ("batch_norm", "dropout") and is_training:
        raise ValueError(
            f"the network must be in evaluation mode, but {name} came with training=True. Call eval() first."
        )
    if name not in KNOWN:
        raise ValueError(
            f"exact regions need a network of {', '.join(KNOWN)}, got {name!r}. Use sampled_crossings, or measure "
            "a part of the network without it."
        )
    divides_by_path = name == "div" and isinstance(args[1], SegmentPath)
    if name in PRODUCTS and (len(paths) > 1 or divides_by_path):
        raise ValueError(
            f"exact regions need a piecewise linear network, got a {name} of or by an activation. Use "
            "sampled_crossings."
        )


def _values_at(path: SegmentPath, times: Tensor) -> Tensor:
    """Interpolate values at any times, (m, ...); exact, as the path is linear between its own."""
    if times is path.times:
        return path.activations
    left = torch.searchsorted(path.times, times, right=True).clamp(1, len(path.times) - 1) - 1
    start, end = path.times[left], path.times[left + 1]
    weight = ((times - start) / (end - start)).view(-1, *[1] * (path.activations.ndim - 1))
    low, high = (path.activations.index_select(0, row) for row in (left, left + 1))
    return low.lerp_(high, weight.to(low.dtype))


def _insert(path: SegmentPath, interval: Tensor, fraction: Tensor, width: Tensor) -> SegmentPath:
    """Add breakpoints at fractions of intervals between the path's own, uncertain by fractions of them."""
    found = path.breakpoints
    # Nothing is looked for between the intervals.
    inside = ~torch.isin(path.times[interval], found.intervals[:, 1])
    interval, fraction, width = interval[inside], fraction[inside], width[inside]
    start, end = path.times[interval], path.times[interval + 1]
    new = torch.lerp(start, end, fraction)
    if not found.is_exact:
        width = width * (end - start)
        found.found.append(torch.stack([new - width, new, new + width], dim=1))
    new = separate(new)
    after = torch.searchsorted(path.times, new).clamp(1, len(path.times) - 1)
    gap = torch.minimum(new - path.times[after - 1], path.times[after] - new)
    new = new[gap > TOLERANCE]
    if len(new) == 0:
        return path
    if found.is_exact:
        found.found.append(new[:, None].expand(-1, 3))
    # 64 points always pass, whatever the layer's size, so that halving comes to an end.
    if len(path.times) + len(new) > max(64, found.max_values // path.activations[0].numel()):
        raise TooManyBreakpointsError
    times, order = torch.cat([path.times, new]).sort()
    place, old = order.argsort(), len(path.times)
    values = path.activations.new_empty(len(times), *path.activations.shape[1:])
    values.index_copy_(0, place[:old], path.activations)
    values.index_copy_(0, place[old:], _values_at(path, new))
    return _make(times, values, path.exact, found)


def _relu(path: SegmentPath) -> SegmentPath:
    z = path.activations.flatten(1)  # (m, ...) -> (m, u)
    error = _error(path)
    above, below = z > error, z < -error
    crosses = (above[:-1] & below[1:]) | (below[:-1] & above[1:])
    interval, unit = crosses.nonzero(as_tuple=True)
    before, behind = z[interval, unit].double(), z[interval + 1, unit].double()
    change = before - behind
    if not path.breakpoints.is_exact:
        path.breakpoints.found.append(_in_band(path.times, z, above, below, error))
    denser = _insert(path, interval, before / change, error / change.abs())
    relu = torch.relu if denser is path else torch.relu_
    return _make(denser.times, relu(denser.activations), path.exact.relu(), path.breakpoints)


def _error(path: SegmentPath) -> float:
    """Bound the error of a path's values in float32 by the largest one at the probes."""
    if path.breakpoints.is_exact:
        return 0.0
    found = (_values_at(path, path.breakpoints.probes).double() - path.exact).abs().max()
    rounding = torch.finfo(path.activations.dtype).eps * path.exact.abs().max()
    return float(torch.maximum(SAFETY * found, rounding))


def _in_band(times: Tensor, z: Tensor, above: Tensor, below: Tensor, error: float) -> Tensor:
    """Find breakpoints of units whose value at a time is within the error of zero; return rows of `found`.

    A unit on one side of this band before this time and on the other side behind it crosses once.
    """
    point, unit = (~(above | below)).nonzero(as_tuple=True)
    before, behind = (point - 1).clamp(min=0), (point + 1).clamp(max=len(times) - 1)
    was_above, is_below = above[before, unit], below[behind, unit]
    was_below, is_above = below[before, unit], above[behind, unit]
    passes = (was_above & is_below) | (was_below & is_above)
    value, sides, crossing = z[point, unit].double(), [], times[point]
    for neighbor in (before, behind):
        other = z[neighbor, unit].double()
        change = (other - value).abs()
        to_zero, to_edge = (
            torch.where(change > 0, distance / change, 1).clamp(max=1)
            for distance in (value.abs(), value.abs() + error)
        )
        sides.append(torch.lerp(times[point], times[neighbor], to_edge))
        here = torch.lerp(times[point], times[neighbor], to_zero)
        crossing = torch.where(value * other < 0, here, crossing)
    return torch.stack([sides[0], torch.where(passes, crossing, torch.nan), sides[1]], dim=1)


def _max_pool(
    path: SegmentPath,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> SegmentPath:
    """Pool, with a breakpoint where another entry of a window takes over the maximum."""
    if not path.breakpoints.is_exact:
        raise NeedsDoubleError
    if ceil_mode or return_indices or isinstance(kernel_size, tuple):
        raise ValueError(
            f"exact regions need max-pooling with square windows, ceil_mode=False and no indices, got "
            f"kernel_size={kernel_size}, ceil_mode={ceil_mode}, return_indices={return_indices}. Use "
            "sampled_crossings."
        )
    padded = F.pad(path.activations, (padding,) * 4, value=FAR_BELOW)
    windows = F.unfold(padded, kernel_size, dilation, 0, stride or kernel_size)
    windows = windows.unflatten(1, (-1, kernel_size**2)).transpose(2, 3).flatten(1, 2)  # (m, p, k)
    top = windows.argmax(2)
    interval, window = (top[:-1] != top[1:]).nonzero(as_tuple=True)
    found = _take_overs(windows[interval, window], windows[interval + 1, window])
    path = _insert(path, interval[found[0]], found[1], torch.zeros_like(found[1]))
    pooled = F.max_pool2d(path.activations, kernel_size, stride, padding, dilation)
    return _make(path.times, pooled, path.exact, path.breakpoints)


def _take_overs(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Find rows and points where the maximum of linear functions passes to another, strictly inside (0, 1).

    The functions have values `left` at 0 and `right` at 1, (q, k).
    """
    row = torch.arange(len(left), device=left.device)
    low, high = torch.zeros_like(left[:, 0]), torch.ones_like(left[:, 0])
    rows, places = [row[:0]], [low[:0]]
    while len(row):
        first, last = left.argmax(1, keepdim=True), right.argmax(1, keepdim=True)
        lead = (left.gather(1, first) - left.gather(1, last))[:, 0]
        loss = (right.gather(1, last) - right.gather(1, first))[:, 0]
        place = torch.where(lead + loss > 0, lead / (lead + loss), 0.0)
        middle = torch.lerp(left, right, place[:, None])
        both = torch.maximum(middle.gather(1, first), middle.gather(1, last))[:, 0]
        inside = (place > 0) & (place < 1) & (first != last)[:, 0]
        third = inside & (middle.amax(1) > both + TOLERANCE * both.abs())
        at = torch.lerp(low, high, place)
        rows.append(row[inside & ~third])
        places.append(at[inside & ~third])
        # A third function lies above the crossing of the two: look on both sides of it.
        left = torch.cat([left[third], middle[third]])
        right = torch.cat([middle[third], right[third]])
        low, high = torch.cat([low[third], at[third]]), torch.cat([at[third], high[third]])
        row = row[third].repeat(2)
    return torch.cat(rows), torch.cat(places)
