"""Pictures of a report on encoders: precision against recall, nearest neighbors, linear regions."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from nacgen.probes.suite import Examples, RetrievedImages
from nacgen.reporting.charts import FAINT, HEIGHT, INK, PAPER, WIDTH, save_chart, style_of
from nacgen.reporting.encoders.encoder_report import Measurement, by_name
from nacgen.reporting.encoders.region_planes import slice_picture
from nacgen.system.files import storage_errors, write_file

QUERY_FRAME = (96, 96, 96)
# Light and dark, for eyes that mix up red and green.
RIGHT_FRAME, WRONG_FRAME = (70, 215, 90), (200, 20, 20)
BACKGROUND = 255
FRAME_FRACTION = 16  # a frame and a gap are this part of an image, one pixel or more


def draw_pictures(
    measurements: Sequence[Measurement], examples: Mapping[str, Examples], folder: Path
) -> dict[str, Path]:
    """Draw what was measured into an existing folder; return the paths by caption."""
    pictures: dict[str, Path] = {}
    first = next(iter(examples.values()))
    if first.retrieved is not None:
        chart = folder / "precision_recall.svg"
        pictures["Precision and recall"] = retrieval_chart(measurements, chart)
    if first.slices:
        pictures["Regions on the plane through three held-out images"] = slice_picture(
            {name: example.slices for name, example in examples.items()},
            first.slice_images,
            folder / "regions.png",
            title="Around the images: activation codes. Enlarged: regions of the whole network.",
        )
    for number, (name, example) in enumerate(examples.items()):
        if example.retrieved is not None:
            sheet = folder / f"neighbors_{number}.png"
            write_retrieval_sheet(example.retrieved, sheet)
            pictures[f"Nearest neighbors by code: {name}"] = sheet
    return pictures


def retrieval_chart(measurements: Sequence[Measurement], path: Path) -> Path:
    """Draw precision against recall of the learned codes, all seeds of an encoder in one color and dash."""
    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    title = "Retrieval by the learned code"
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    chance = measurements[0].results["retrieval"]["code"]["chance"]
    axes.axhline(chance, color=FAINT, linewidth=1.4, label=f"chance {chance:.2f}", zorder=1)
    for index, (name, seeds) in enumerate(by_name(measurements).items()):
        label = re.sub("^_", " _", name)  # matplotlib hides labels that begin with _
        for seed, results in enumerate(seeds):
            curve = results["retrieval"]["code"]["curve"]
            (line,) = axes.plot(curve["recall"], curve["precision"], label=None if seed else label)
            line.set(**style_of(index) | {"marker": ""}, linewidth=1.5)
    axes.set_xlabel("recall, pairs up to each Hamming distance", fontsize=9.5, color=INK)
    axes.set_ylabel("precision", fontsize=9.5, color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    figure.legend(loc="outside lower left", ncols=2, fontsize=9, frameon=False, labelcolor=INK)
    return save_chart(figure, path)


def write_retrieval_sheet(retrieved: RetrievedImages, path: Path, zoom: int = 2) -> None:
    """Write queries and their neighbors as one PNG, a query and its neighbors in a row.

    Relevant neighbors have a solid green frame, others a dashed red one, all a gray one where that is not known.
    The file has `zoom` pixels for each of an image.
    """
    frames = torch.tensor([WRONG_FRAME, RIGHT_FRAME], dtype=torch.uint8)
    gray = torch.tensor(QUERY_FRAME, dtype=torch.uint8)
    queries, relevant = retrieved.queries.cpu(), retrieved.is_relevant
    left = _framed(queries[:, None], gray)
    colors = gray if relevant is None else frames[relevant.cpu().long()]
    right = _framed(
        retrieved.neighbors.cpu(), colors, None if relevant is None else ~relevant.cpu()
    )
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


def _framed(images: Tensor, colors: Tensor, is_dashed: Tensor | None = None) -> Tensor:
    """Put a frame and a gap around images, side by side, (q, m, c, h, w) -> (q, c, h, w)."""
    height, width = images.shape[-2:]
    thin = _thickness(images)
    frame = rearrange(colors, "... c -> ... c 1 1").expand(*images.shape[:2], 3, 1, 1)
    framed = frame.repeat(1, 1, 1, height + 2 * thin, width + 2 * thin)
    if is_dashed is not None:
        places = torch.arange(framed.shape[-2])[:, None] + torch.arange(framed.shape[-1])
        gaps = places // max(2, width // 6) % 2 == 1
        framed.masked_fill_(rearrange(is_dashed, "q m -> q m 1 1 1") & gaps, BACKGROUND)
    framed[..., thin:-thin, thin:-thin] = images
    spaced = F.pad(framed, (thin, thin, thin, thin), value=BACKGROUND)
    return rearrange(spaced, "q m c h w -> q c h (m w)")


def _thickness(images: Tensor) -> int:
    return max(1, min(images.shape[-2:]) // FRAME_FRACTION)
