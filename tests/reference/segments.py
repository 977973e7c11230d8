"""Linear regions along a segment in float64 throughout, with the values of all units at all breakpoints.

Networks are written with the functions of this module, which carry (times, values) from layer to layer.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Path = tuple[Tensor, Tensor]  # times (m,) and values (m, ...), linear in between
TOLERANCE = 1e-12


class Counter:
    """The breakpoints of one segment; its methods are the layers of a network."""

    def __init__(self, start: Tensor, end: Tensor) -> None:
        self.path = torch.tensor([0.0, 1.0]).double(), torch.stack([start, end]).double()
        self.found = [torch.empty(0).double()]

    def count(self) -> int:
        return len(separate(torch.cat(self.found)))

    def affine(self, layer: Callable[[Tensor], Tensor], path: Path) -> Path:
        return path[0], layer(path[1])

    def add(self, first: Path, second: Path) -> Path:
        times = separate(torch.cat([first[0], second[0]]))
        return times, interpolate(first, times) + interpolate(second, times)

    def relu(self, path: Path) -> Path:
        times, z = path[0], path[1].flatten(1)
        interval, unit = ((z[:-1] * z[1:]) < 0).nonzero(as_tuple=True)
        before, behind = z[interval, unit], z[interval + 1, unit]
        fraction = before / (before - behind)
        new = separate(torch.lerp(times[interval], times[interval + 1], fraction))
        new = new[(new[:, None] - times).abs().amin(1) > TOLERANCE]
        self.found.append(new)
        denser = torch.cat([times, new]).sort().values
        return denser, interpolate(path, denser).relu()


def separate(times: Tensor) -> Tensor:
    """Sort times and drop those within the tolerance of the one before."""
    times = times.sort().values
    return times[torch.cat([torch.ones_like(times[:1]).bool(), times.diff() > TOLERANCE])]


def interpolate(path: Path, at: Tensor) -> Tensor:
    times, values = path
    left = (torch.searchsorted(times, at, right=True) - 1).clamp(0, len(times) - 2)
    weight = (at - times[left]) / (times[left + 1] - times[left])
    return torch.lerp(values[left], values[left + 1], weight.view(-1, *[1] * (values.ndim - 1)))


def encoder_crossings(encoder: torch.nn.Module, start: Tensor, end: Tensor) -> int:
    """Count what the tiny NAC encoder crosses: a stem, three residual blocks and a head of two layers."""
    counter = Counter(start, end)
    trunk, head = encoder.backbone, encoder.code_head.mlp
    x = counter.affine(lambda x: trunk.bn1(trunk.conv1(encoder.normalize(x))), counter.path)
    x = counter.relu(x)
    for (block,) in (trunk.layer1, trunk.layer2, trunk.layer3):
        y = counter.relu(counter.affine(lambda x, b=block: b.bn1(b.conv1(x)), x))
        y = counter.affine(lambda x, b=block: b.bn2(b.conv2(x)), y)
        shortcut = x if block.downsample is None else counter.affine(block.downsample, x)
        x = counter.relu(counter.add(y, shortcut))
    counter.relu(counter.affine(lambda x: head[0](x.mean((2, 3))), x))
    return counter.count()


def chain_crossings(network: torch.nn.Sequential, start: Tensor, end: Tensor) -> int:
    """Count what a chain of affine layers and ReLUs crosses."""
    counter = Counter(start, end)
    path = counter.path
    for layer in network:
        is_relu = isinstance(layer, torch.nn.ReLU)
        path = counter.relu(path) if is_relu else counter.affine(layer, path)
    return counter.count()
