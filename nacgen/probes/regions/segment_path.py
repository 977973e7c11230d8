"""Exact activations of a ReLU network along a straight segment of images.

Along a segment every activation of a ReLU network is a piecewise linear function of `t` in [0, 1], so its
values at the breakpoints determine it. A `SegmentPath` holds these values. It passes through the network as a
batch of one image: affine layers act on the values, and each ReLU adds the points where one of its inputs
changes sign, which linear interpolation finds exactly. Where branches of a residual network are added, both
receive the union of their breakpoints. One pass costs about one forward pass for each breakpoint.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

TOLERANCE = 1e-12  # breakpoints nearer than this are one: equal units cross together up to rounding
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


class TooManyBreakpointsError(Exception):
    """Values at the breakpoints would not fit into memory; halve the segment."""


class Breakpoints:
    """Breakpoints of all ReLUs and max-pools of a network along one segment.

    One activation may hold at most `max_values` values at all its breakpoints together.
    """

    def __init__(self, max_values: int) -> None:
        self.max_values = max_values
        self.found: list[Tensor] = []

    def count(self) -> int:
        """Return the number of distinct breakpoints found so far."""
        return len(_separate(torch.cat(self.found))) if self.found else 0


class SegmentPath(Tensor):
    """Values of one activation along a segment; networks see a batch of one image."""

    stands_for_others = True  # its numbers are not those of the image that networks see
    times: Tensor
    activations: Tensor
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
        return args[0]


def segment_path(
    start: Float[Tensor, "..."], end: Float[Tensor, "..."], breakpoints: Breakpoints
) -> SegmentPath:
    """Return the segment between two images, (c, h, w), as an input (1, c, h, w) of a network.

    Constants of the network are cast to the images' precision. Breakpoints are collected as `t` in (0, 1).
    """
    return _make(start.new_tensor([0.0, 1.0]), torch.stack([start, end]), breakpoints)


def _make(times: Tensor, values: Tensor, breakpoints: Breakpoints) -> SegmentPath:
    path: SegmentPath = Tensor._make_subclass(SegmentPath, values[:1])  # sees one image
    path.times, path.activations, path.breakpoints = times, values, breakpoints
    return path


def _affine(
    func: Callable[..., Tensor], paths: list[SegmentPath], args: Any, kwargs: Any
) -> SegmentPath:
    """Apply a function that is affine in the paths, at the breakpoints of all of them."""
    times = max((path.times for path in paths), key=len)
    if any(path.times is not times for path in paths):
        together = _separate(torch.cat([path.times for path in paths]))
        times = together if len(together) > len(times) else times
    row = _apply(func, args, kwargs, lambda path: _values_at(path, times[:1]))
    values: Tensor | None = None
    if row.shape[:1] == (1,):
        if func.__name__ in SHAPES:
            values = paths[0].activations.reshape(len(times), *row.shape[1:])
        else:
            values = _apply(func, args, kwargs, lambda path: _values_at(path, times))
    if values is None or values.shape != (len(times), *row.shape[1:]):
        raise ValueError(
            f"the network must treat each image on its own, but {func.__name__} made {tuple(row.shape)} of a "
            "batch of one. Keep the first axis the batch."
        )
    return _make(times, values, paths[0].breakpoints)


def _apply(
    func: Callable[..., Tensor], args: Any, kwargs: Any, replace: Callable[[SegmentPath], Tensor]
) -> Tensor:
    """Call a function with plain tensors in place of paths, constants in the paths' precision."""
    first = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, SegmentPath))
    dtype = first.activations.dtype

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
    return torch.lerp(path.activations[left], path.activations[left + 1], weight)


def _separate(times: Tensor) -> Tensor:
    """Sort times and drop those within `TOLERANCE` of the one before."""
    times = times.sort().values
    keep = torch.ones_like(times, dtype=torch.bool)
    keep[1:] = times.diff() > TOLERANCE
    return times[keep]


def _insert(path: SegmentPath, interval: Tensor, fraction: Tensor) -> SegmentPath:
    """Add breakpoints at fractions of intervals between the path's own."""
    start, end = path.times[interval], path.times[interval + 1]
    new = _separate(torch.lerp(start, end, fraction))
    after = torch.searchsorted(path.times, new).clamp(1, len(path.times) - 1)
    gap = torch.minimum(new - path.times[after - 1], path.times[after] - new)
    new = new[gap > TOLERANCE]
    if len(new) == 0:
        return path
    found, size = path.breakpoints, path.activations[0].numel()
    found.found.append(new)
    # 64 points always pass, whatever the layer's size, so that halving comes to an end.
    if len(path.times) + len(new) > max(64, found.max_values // size):
        raise TooManyBreakpointsError
    times = torch.cat([path.times, new]).sort().values
    return _make(times, _values_at(path, times), found)


def _relu(path: SegmentPath) -> SegmentPath:
    z = path.activations.flatten(1)  # (m, ...) -> (m, u)
    above, below = z > 0, z < 0
    crosses = (above[:-1] & below[1:]) | (below[:-1] & above[1:])
    interval, unit = crosses.nonzero(as_tuple=True)
    before, behind = z[interval, unit], z[interval + 1, unit]
    path = _insert(path, interval, before / (before - behind))
    return _make(path.times, path.activations.relu(), path.breakpoints)


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
    path = _insert(path, interval[found[0]], found[1])
    pooled = F.max_pool2d(path.activations, kernel_size, stride, padding, dilation)
    return _make(path.times, pooled, path.breakpoints)


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
