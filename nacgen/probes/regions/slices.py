"""Linear regions on a plane through three images, for pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from nacgen.probes.regions.patterns import Network, visit_relus
from nacgen.system.randomness import generator

Part = Literal["network", "code"]
MARGIN = 0.12  # around the images, as a fraction of the picture's side
CHUNK = 512
SKETCH_DIM = 64  # random projections by which patterns are compared


@dataclass(frozen=True)
class RegionSlice:
    """Regions of the pixels of a plane, numbered from the largest.

    `likeness` has coordinates in -1 to 1 along the three main directions in which patterns vary: regions whose
    patterns differ in few bits are near each other. `corners` has column and row of the three images, in pixels.
    """

    region_ids: Int64[Tensor, "r r"]
    likeness: Float[Tensor, "g 3"]
    corners: Float[Tensor, "3 2"]
    num_regions: int
    part: Part
    zoom: float


def slice_regions(
    network: Network,
    images: Float[Tensor, "3 c h w"],
    resolution: int = 256,
    part: Part = "network",
    zoom: float = 1.0,
) -> RegionSlice:
    """Find the regions that a plane through three images cuts, by one forward pass for each pixel.

    The part `"network"` compares patterns of all ReLUs, the linear regions; `"code"` compares signs of the
    output, the activation codes if it is code logits. `zoom` magnifies about the mean of the images: a plane
    cuts so many regions of a whole network that only a small window shows them.
    """
    pixels, corners = _plane(images, resolution, zoom)
    reader = _PatternReader()
    for chunk in pixels.split(CHUNK):
        if part == "network":
            visit_relus(network, chunk, reader.start(len(chunk)))
        else:  # codes count a logit of exactly zero as +1, ReLUs as off
            output = visit_relus(network, chunk, lambda _: None)
            reader.start(len(chunk))((output >= 0).float())
    region_ids, likeness = reader.regions(resolution)
    return RegionSlice(region_ids, likeness, corners, len(likeness), part, zoom)


class _PatternReader:
    """Digests and random projections of the patterns of images, computed chunk by chunk."""

    def __init__(self) -> None:
        self.digests: list[blake2b] = []
        self.sketches: list[Tensor] = []
        self.directions: list[Tensor] = []

    def start(self, num_images: int) -> Callable[[Tensor], None]:
        """Begin a chunk; return a function that takes the layers of its patterns in order."""
        digests = [blake2b(digest_size=16) for _ in range(num_images)]
        sketch, layers = torch.zeros(num_images, SKETCH_DIM), count()
        self.digests += digests
        self.sketches.append(sketch)

        def read(values: Tensor) -> None:
            is_on, layer = (values > 0).flatten(1).cpu(), next(layers)
            for digest, bits in zip(digests, np.packbits(is_on.numpy(), axis=1), strict=True):
                digest.update(bits.tobytes())
            if layer == len(self.directions):
                draw = generator(0, "region_sketch", layer)
                self.directions.append(torch.randn(is_on.shape[1], SKETCH_DIM, generator=draw))
            sketch.add_(torch.where(is_on, 1.0, -1.0) @ self.directions[layer])

        return read

    def regions(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Return the region of each pixel and the likeness of each region."""
        _, pixel, inverse, size = np.unique(
            np.array([digest.digest() for digest in self.digests], dtype="V16"),
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        order = np.lexsort((pixel, -size))  # the largest first, then by first appearance
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        ids = rearrange(torch.from_numpy(rank[inverse]), "(y x) -> y x", y=resolution)
        sketches = torch.cat(self.sketches).double()
        rounding = 1e-6 * sketches.abs().max()
        sketches -= sketches.mean(0)
        along = sketches @ torch.linalg.svd(sketches, full_matrices=False).Vh[:3].T  # (p, 3)
        along /= along.std(0).clamp_min(rounding)  # a single region has no directions
        return ids.long(), along[torch.from_numpy(pixel[order])].tanh().float()


def _plane(images: Tensor, resolution: int, zoom: float) -> tuple[Tensor, Tensor]:
    """Return the images at a plane's pixels, (r r) c h w, and the pixels of the three images."""
    exact = images.double()
    middle = exact.mean(0)
    first, second = (exact[1] - exact[0]).flatten(), (exact[2] - exact[0]).flatten()
    across = first / first.norm()
    up = second - (second @ across) * across
    if not up.norm() > 1e-6 * second.norm():
        raise ValueError(
            "images must span a plane, but the three lie on one line. Choose three different images."
        )
    axes = torch.stack([across, up / up.norm()], dim=1)  # (d, 2)
    places = (exact - middle).flatten(1) @ axes
    side = 2 * float(places.abs().max()) / (1 - 2 * MARGIN) / zoom
    ticks = (
        (torch.arange(resolution, dtype=torch.float64, device=images.device) + 0.5) / resolution
        - 0.5
    ) * side
    grid = torch.cartesian_prod(-ticks, ticks).flip(1)  # rows from above, (r r) 2 as (x, y)
    pixels = (grid @ axes.T).unflatten(1, middle.shape) + middle
    corners = (places * places.new_tensor([1.0, -1.0]) / side + 0.5) * resolution - 0.5
    return pixels.to(images.dtype), corners.cpu().float()
