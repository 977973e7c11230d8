"""A picture of retrieval by code: queries on the left, their neighbors on the right."""

import io
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from nacgen.probes.suite import RetrievedImages
from nacgen.system.files import storage_errors, write_file

QUERY_FRAME = (96, 96, 96)
# Light and dark, for eyes that mix up red and green.
RIGHT_FRAME, WRONG_FRAME = (70, 215, 90), (200, 20, 20)
BACKGROUND = 255
FRAME_FRACTION = 16  # a frame and a gap are this part of an image, one pixel or more


def write_retrieval_sheet(retrieved: RetrievedImages, path: Path, zoom: int = 2) -> Path:
    """Write queries and their neighbors as one PNG, a query and its neighbors in a row.

    Relevant neighbors have a green frame, others a red one; a gap separates the queries. The file has `zoom`
    pixels for each pixel of an image.
    """
    frames = torch.tensor([WRONG_FRAME, RIGHT_FRAME], dtype=torch.uint8)
    queries = retrieved.queries.cpu()
    left = _framed(queries[:, None], torch.tensor(QUERY_FRAME, dtype=torch.uint8))
    right = _framed(retrieved.neighbors.cpu(), frames[retrieved.is_relevant.cpu().long()])
    left = F.pad(left, (0, left.shape[-1] // 3), value=BACKGROUND)
    margin = _thickness(queries)
    sheet = F.pad(torch.cat([left, right], dim=-1), (margin, margin), value=BACKGROUND)
    sheet = rearrange(sheet, "q c h w -> (q h) w c")
    picture = Image.fromarray(sheet.contiguous().numpy())
    size = (picture.width * zoom, picture.height * zoom)
    content = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(content, format="PNG")
    with storage_errors(f"the picture {path}"):
        write_file(path, content.getvalue())
    return path


def _framed(images: Tensor, colors: Tensor) -> Tensor:
    """Put a frame and a gap around images, side by side, (q, m, c, h, w) -> (q, c, h, w)."""
    height, width = images.shape[-2:]
    thin = _thickness(images)
    frame = rearrange(colors, "... c -> ... c 1 1").expand(*images.shape[:2], 3, 1, 1)
    framed = frame.repeat(1, 1, 1, height + 2 * thin, width + 2 * thin)
    framed[..., thin:-thin, thin:-thin] = images
    spaced = F.pad(framed, (thin, thin, thin, thin), value=BACKGROUND)
    return rearrange(spaced, "q m c h w -> q c h (m w)")


def _thickness(images: Tensor) -> int:
    return max(1, min(images.shape[-2:]) // FRAME_FRACTION)
