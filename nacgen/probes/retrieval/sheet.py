"""A picture of what codes retrieve: queries on the left, their neighbours on the right."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

QUERY_FRAME = (96, 96, 96)
RIGHT_FRAME, WRONG_FRAME = (
    (70, 215, 90),
    (200, 20, 20),
)  # light and dark, for eyes that mix up red and green
BACKGROUND = 255
FRAME_SHARE = 16  # a frame and a gap are this part of an image, one pixel or more


def write_retrieval_sheet(
    queries: UInt8[Tensor, "q 3 h w"],
    neighbors: UInt8[Tensor, "q m 3 h w"],
    is_relevant: Bool[Tensor, "q m"],
    path: str | Path,
    zoom: int = 1,
) -> None:
    """Write queries and their neighbours as one PNG, a query and its neighbours in a row.

    A neighbour that is relevant is framed green, one that is not red; a gap sets the queries apart.

    Args:
        queries: Pixels, 0 to 255.
        neighbors: Of each query, nearest first.
        is_relevant: Whether a neighbour is what its query looks for.
        path: The file; its folder must exist.
        zoom: Pixels in the file for each pixel, a whole number.

    Raises:
        ValueError: There is nothing to show, numbers or sizes of images differ, or the zoom is below one.
    """
    if len(queries) == 0 or neighbors.shape[1] == 0:
        raise ValueError(
            f"a sheet needs a query and a neighbour or more, got {len(queries)} queries with "
            f"{neighbors.shape[1]} neighbours each."
        )
    expected = (len(queries), neighbors.shape[1], *queries.shape[1:])
    if neighbors.shape != expected or is_relevant.shape != expected[:2]:
        raise ValueError(
            "queries (q, 3, h, w), neighbours (q, m, 3, h, w) and is_relevant (q, m) must fit together, got "
            f"{tuple(queries.shape)}, {tuple(neighbors.shape)} and {tuple(is_relevant.shape)}. Index the gallery "
            "with the neighbours of these queries."
        )
    if zoom < 1:
        raise ValueError(f"zoom must be 1 or more, got {zoom}.")
    colors = torch.tensor([WRONG_FRAME, RIGHT_FRAME], dtype=torch.uint8)[is_relevant.cpu().long()]
    left = _framed(queries.cpu()[:, None], torch.tensor(QUERY_FRAME, dtype=torch.uint8))
    right = _framed(neighbors.cpu(), colors)
    left = F.pad(left, (0, left.shape[-1] // 3), value=BACKGROUND)
    rows = torch.cat([left, right], dim=-1)
    margin = _thickness(queries)
    sheet = F.pad(rows, (margin, margin), value=BACKGROUND)
    sheet = rearrange(sheet, "q c h w -> (q h) w c")
    picture = Image.fromarray(sheet.contiguous().numpy())
    size = (picture.width * zoom, picture.height * zoom)
    picture.resize(size, Image.Resampling.NEAREST).save(path, format="PNG")


def _framed(images: Tensor, colors: Tensor) -> Tensor:
    """Images with a frame and a gap around, side by side, (q, m, c, h, w) -> (q, c, h, w)."""
    height, width = images.shape[-2:]
    thin = _thickness(images)
    frame = rearrange(colors, "... c -> ... c 1 1").expand(*images.shape[:2], 3, 1, 1)
    framed = frame.repeat(1, 1, 1, height + 2 * thin, width + 2 * thin)
    framed[..., thin:-thin, thin:-thin] = images
    spaced = F.pad(framed, (thin, thin, thin, thin), value=BACKGROUND)
    return rearrange(spaced, "q m c h w -> q c h (m w)")


def _thickness(images: Tensor) -> int:
    return max(1, min(images.shape[-2:]) // FRAME_SHARE)
