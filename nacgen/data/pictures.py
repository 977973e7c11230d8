"""Images written as PNG files, alone or in a grid, and as an animated GIF."""

from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

FRAME = 96  # gray


def write_grid(
    images: UInt8[Tensor, "n 3 h w"], path: str | Path, columns: int, zoom: int = 1
) -> None:
    """Write images as one PNG, row by row, each in a thin frame.

    Args:
        images: Images whose number is a multiple of `columns`.
        path: Path of the file; its folder must exist.
        columns: Number of images in a row.
        zoom: Whole factor by which pixels are enlarged.

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


def write_image(image: UInt8[Tensor, "3 h w"], path: str | Path) -> None:
    """Write one image as a PNG file, whose folder must exist."""
    pixels = rearrange(image, "c h w -> h w c").contiguous().cpu().numpy()
    Image.fromarray(pixels).save(path, format="PNG")


def write_gif(
    frames: Sequence[Path], path: str | Path, shrink: int = 1, max_frames: int = 40
) -> None:
    """Write an endless GIF of picture files, five per second, the last one shown for two seconds.

    Args:
        frames: Paths of one picture or more, all of one size, in order.
        path: Path of the file; its folder must exist.
        shrink: Whole factor by which pictures are reduced.
        max_frames: Largest number of pictures. Of more, this many are taken at even distances, first and last
            included.

    Raises:
        ValueError: There are no frames, or their sizes differ.
    """
    if not frames:
        raise ValueError(
            "frames must be one picture file or more, got none. Write the pictures first."
        )
    last, count = len(frames) - 1, min(len(frames), max_frames)
    chosen = [frames[round(i * last / max(1, count - 1))] for i in range(count)]
    pictures = []
    for file in chosen:
        with Image.open(file) as picture:
            size = (picture.width // shrink, picture.height // shrink)
            pictures.append(picture.convert("RGB").resize(size, Image.Resampling.NEAREST))
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"frames must have one size, got {sorted(sizes)}. Leave the others out.")
    pictures[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[200] * (count - 1) + [2000],
        loop=0,
    )
