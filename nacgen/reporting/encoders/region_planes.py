"""Pictures of linear regions: planes through three images, several networks side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from nacgen.probes.regions.slices import RegionSlice
from nacgen.reporting.charts import COLORS, INK, save_chart

PANEL, GAP, CAPTION, HEADER = 3.6, 0.16, 0.36, 0.72  # inches
LINES_PER_PANEL = 720  # pixels that a panel is drawn with, at least
THUMBNAIL = 0.15  # of a panel's side
LIGHTNESS, CHROMA = 0.74, 0.125  # of the colors, in OKLab
# From OKLab to the cones' responses, and from these to linear sRGB (Ottosson 2020).
TO_CONES = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
TO_RGB = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)
RING: dict[str, Any] = {
    "markersize": 9,
    "markerfacecolor": "none",
    "markeredgecolor": "white",
    "markeredgewidth": 1.8,
    "zorder": 5,
}  # around the window that other panels enlarge
KINDS = {"network": "linear regions", "code": "activation codes"}


def slice_picture(
    slices: Mapping[str, Sequence[RegionSlice]],
    images: UInt8[Tensor, "3 3 h w"],
    path: str | Path,
    *,
    title: str,
) -> Path:
    """Draw slices, one network in a column; the title of a panel is the number of its regions.

    Similar patterns have similar colors, within a panel only. Each network has equally many slices.
    """
    columns = list(slices.items())
    num_rows = len(columns[0][1])
    width = GAP + (PANEL + GAP) * len(columns)
    height = HEADER + (PANEL + CAPTION) * num_rows
    figure = Figure(figsize=(width, height), dpi=200, facecolor="white")
    figure.text(GAP / width, 1 - 0.34 / height, title, fontsize=12.5, fontweight="bold", color=INK)
    for column, (name, parts) in enumerate(columns):
        left = GAP + (PANEL + GAP) * column
        style: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "color": INK}
        figure.text(left / width, 1 - 0.69 / height, name, **style)
        for row, part in enumerate(parts):
            bottom = (PANEL + CAPTION) * (num_rows - 1 - row) + GAP
            box = (left / width, bottom / height, PANEL / width, PANEL / height)
            axes = figure.add_axes(box)
            _draw_panel(axes, part, images)
            if part.zoom == 1 and any(other.zoom > 4 for other in parts):
                middle = (len(part.region_ids) - 1) / 2
                axes.plot(middle, middle, "o", **RING)
    return save_chart(figure, path)


def _draw_panel(axes: Axes, part: RegionSlice, images: Tensor) -> None:
    resolution = len(part.region_ids)
    edges = (-0.5, resolution - 0.5)
    axes.imshow(_paint(part).numpy(), extent=(*edges, *edges[::-1]), interpolation="nearest")
    axes.spines[:].set_visible(False)
    # With a region in nearly every pixel there are more regions than pixels can show.
    at_least = "over " if part.num_regions > 0.5 * resolution**2 else ""
    window = "" if part.zoom == 1 else f", {part.zoom:g}x enlarged about the middle"
    caption = f"{at_least}{part.num_regions:,} {KINDS[part.part]}{window}"
    axes.set_title(caption, loc="left", fontsize=8.8, color=COLORS[0], pad=4)
    half = THUMBNAIL * resolution / 2
    pictures = rearrange(images, "n c h w -> n h w c").cpu().numpy()
    for picture, (x, y) in zip(pictures, part.corners.tolist(), strict=True):
        if min(x, y) < 0 or max(x, y) > resolution:
            continue  # outside of an enlarged window
        extent = (x - half, x + half, y + half, y - half)
        axes.imshow(picture, extent=extent, zorder=3, interpolation="nearest")
        corner, side = (x - half, y - half), 2 * half
        frame = Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=2.2)
        axes.add_patch(frame).set_zorder(4)
    axes.set(xticks=[], yticks=[], xlim=edges, ylim=edges[::-1])


def _paint(part: RegionSlice) -> Tensor:
    """Return the colors of a panel's pixels, (r, r, 3) in 0..1."""
    zoom = max(1, round(LINES_PER_PANEL / len(part.region_ids)))  # keeps the lines thin
    ids = repeat(part.region_ids, "y x -> (y i) (x j)", i=zoom, j=zoom)
    colors = _colors(part.likeness)[ids]  # (g, 3) -> (r, r, 3)
    border = torch.zeros(ids.shape, dtype=torch.bool)
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    border[1:] |= ids[1:] != ids[:-1]
    covered = float(border.float().mean())
    strength = 0.6 * max(0.0, 1 - 2 * zoom * covered)  # lines everywhere would hide the colors
    return torch.where(border[..., None], colors * (1 - strength), colors)


def _colors(likeness: Float[Tensor, "g 3"]) -> Tensor:
    """Return colors of equal saturation whose visible distance follows that of the patterns, (g, 3)."""
    a, b = (CHROMA * likeness[:, :2]).T
    light = LIGHTNESS + 0.1 * likeness[:, 2]
    cones = (torch.stack([light, a, b], dim=1) @ torch.tensor(TO_CONES).T) ** 3
    linear = (cones @ torch.tensor(TO_RGB).T).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
