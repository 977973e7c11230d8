"""Images written as PNG files, alone or in a grid, and as an animated GIF; the files' folders must exist."""

import contextlib
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from nacgen.system.files import open_regular, write_file
from nacgen.system.terminal import printable

FRAME = 96  # gray
MAX_FRAMES = 40  # of a GIF
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # in Pillow's words


def _save(
    picture: Image.Image, path: str | Path, sync: bool = True, format: str = "PNG", **options: Any
) -> None:
    content = io.BytesIO()
    picture.save(content, format=format, **options)
    write_file(Path(path), content.getvalue(), sync=sync)


def write_grid(
    images: UInt8[Tensor, "n 3 h w"], path: str | Path, columns: int, zoom: int = 1
) -> None:
    """Write images that fill rows of `columns` as one PNG, each in a thin frame, enlarged `zoom` times."""
    framed = F.pad(images, (1, 1, 1, 1), value=FRAME)
    grid = rearrange(framed, "(r k) c h w -> (r h) (k w) c", k=columns).cpu().numpy()
    picture = Image.fromarray(grid)
    size = (picture.width * zoom, picture.height * zoom)
    _save(picture.resize(size, Image.Resampling.NEAREST), path)


def write_image(image: UInt8[Tensor, "3 h w"], path: str | Path) -> None:
    """Write one image as a PNG file."""
    pixels = rearrange(image, "c h w -> h w c").contiguous().cpu().numpy()
    _save(Image.fromarray(pixels), path, sync=False)  # one of thousands, and drawn again at will


def write_gif(frames: Sequence[Path], path: str | Path, shrink: int = 1) -> None:
    """Write an endless GIF of picture files of one size, five per second, the last one shown for two seconds.

    Pictures are reduced by the whole factor `shrink`. If there are more than `MAX_FRAMES`, this many are taken at
    even distances, first and last included. Damaged ones, and those of another size than most, are passed over.
    """
    last, count = len(frames) - 1, min(len(frames), MAX_FRAMES)
    opened: dict[Path, Image.Image] = {}
    for file in [frames[round(i * last / max(1, count - 1))] for i in range(count)]:
        with contextlib.suppress(*UNREADABLE), open_regular(file) as source:
            opened[file] = Image.open(source).convert("RGB")
    sizes = Counter(picture.size for picture in opened.values())
    size = max(sizes, key=sizes.__getitem__, default=(0, 0))
    small = (size[0] // shrink, size[1] // shrink)
    pictures = [
        p.resize(small, Image.Resampling.NEAREST) for p in opened.values() if p.size == size
    ]
    if len(pictures) < count:
        lost = f"{count - len(pictures)} of {count} pictures are damaged or of another size"
        print(f"{lost} and were left out of {printable(str(path))}", file=sys.stderr)
    if not pictures:
        return
    _save(
        pictures[0],
        path,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=[200] * (len(pictures) - 1) + [2000],
        loop=0,
    )
