"""Writing images as picture files."""

from pathlib import Path

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

FRAME = 96  # grey


def write_grid(
    images: UInt8[Tensor, "n 3 h w"], path: str | Path, columns: int, zoom: int = 1
) -> None:
    """Write images as one PNG, row by row, each with a thin frame.

    Args:
        images: As many as fill the rows.
        path: The file; its folder must exist.
        columns: Images in a row.
        zoom: Pixels in the file for each pixel, a whole number.

    Raises:
        ValueError: The images do not fill the rows.
    """
    if len(images) == 0 or len(images) % columns:
        raise ValueError(
            f"images must fill rows of {columns}, got {len(images)}. Give a multiple of {columns}."
        )
    framed = F.pad(images, (1, 1, 1, 1), value=FRAME)
    grid = rearrange(framed, "(r k) c h w -> (r h) (k w) c", k=columns).cpu().numpy()
    picture = Image.fromarray(grid)
    size = (picture.width * zoom, picture.height * zoom)
    picture.resize(size, Image.Resampling.NEAREST).save(path, format="PNG")
