"""Writing images as picture files."""

from collections.abc import Sequence
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


def write_image(image: UInt8[Tensor, "3 h w"], path: str | Path) -> None:
    """Write one image as a PNG, as it is.

    Args:
        image: The pixels.
        path: The file; its folder must exist.
    """
    pixels = rearrange(image, "c h w -> h w c").contiguous().cpu().numpy()
    Image.fromarray(pixels).save(path, format="PNG")


def write_gif(
    frames: Sequence[Path], path: str | Path, shrink: int = 1, max_frames: int = 40
) -> None:
    """Make an endless GIF of picture files, five a second, the last one held for two.

    Args:
        frames: Files of pictures of one size, one at least, in order.
        path: The file; its folder must exist.
        shrink: Pixels of the files for each pixel, a whole number.
        max_frames: Of more files, so many are taken at even distances, the first and the last among them.

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
