"""Draw the pictures of `docs/nac.md`, from the released encoder and held-out digits: seconds on one core.

python docs/pictures/draw_nac.py
"""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.stream import ImageStream
from nacgen.pretraining.base import two_views
from nacgen.pretraining.build import build_views
from nacgen.pretraining.presets import PRESETS

FOLDER = Path(__file__).parent
GRAY, BLUE, ORANGE = "#8a8a8a", "#0072B2", "#D55E00"


def main(folder: Path = FOLDER) -> dict[str, float]:
    """Write both pictures; return the mean fractions of bits that differ, in percent."""
    digits = ImageStream(load_dataset("digits", "test"), 355, seed=0).batch(0)
    views = two_views(digits, build_views(PRESETS["digits"].views))
    encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac").eval()
    torch.manual_seed(0)
    untrained = nacgen.NACEncoder("tiny").train()
    for module in untrained.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.momentum = 1.0  # one pass sets the statistics
    with torch.no_grad():
        untrained.codes(views)
        codes = encoder.codes(views).view(2, 355, -1)
        before = untrained.eval().codes(views).view(2, 355, -1)
    draw_channel(folder / "channel.svg", views.view(2, 355, 3, 16, 16), codes, encoder)
    draw_distances(folder / "distances.svg", {"before": before, "after": codes}, encoder)
    same, other = (100 * x.float().mean().item() for x in differences(codes))
    return {"another view": same, "another image": other}


def differences(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the fractions of bits that differ between two views, and between two images, one per image."""
    first, second = codes
    return (first != second).float().mean(1), (first != second.roll(1, 0)).float().mean(1)


def draw_channel(path: Path, views: Tensor, codes: Tensor, encoder: nacgen.NACEncoder) -> None:
    """Draw one image, another view of it and another image with their codes, and what the channel makes of one."""
    noise = torch.rand(codes.shape[-1], generator=torch.Generator().manual_seed(0))
    sent = codes[0, 0]
    rows = [
        ("an image", views[0, 0], sent),
        ("received", None, sent ^ (noise < encoder.flip_probability)),
        ("another view", views[1, 0], codes[1, 0]),
        ("another image", views[0, 1], codes[0, 1]),
    ]
    figure = Figure(figsize=(7.6, 3.4), facecolor="white", layout="constrained")
    grid = figure.subplots(4, 2, width_ratios=(1, 8))
    for (label, image, code), (left, right) in zip(rows, grid, strict=True):
        if image is not None:
            left.imshow((image[0] + 1) / 2, cmap="gray", vmin=0, vmax=1)
        left.set_axis_off()
        changed = code != sent
        strip = torch.where(code, 0.15, 0.9)[None].repeat(3, 1).T.clone()  # (k, 3)
        strip[changed] = torch.where(
            code[changed, None], torch.tensor([0.6, 0.2, 0.0]), torch.tensor([0.98, 0.66, 0.4])
        )
        right.imshow(strip[None], aspect="auto", interpolation="nearest")
        count = int(changed.sum())
        share = f", {count} of {len(code)} bits differ" if count else f", {len(code)} bits"
        right.set_title(label + share, loc="left", fontsize=9)
        right.set_xticks([])
        right.set_yticks([])
    save(figure, path)


def draw_distances(path: Path, codes: dict[str, Tensor], encoder: nacgen.NACEncoder) -> None:
    """Draw histograms of the bits that differ, before and after pretraining."""
    figure = Figure(figsize=(7.6, 2.8), facecolor="white", layout="constrained")
    for axes, (when, found) in zip(figure.subplots(1, 2, sharey=True), codes.items(), strict=True):
        assert isinstance(axes, Axes)
        for values, label, color, hatch in zip(
            differences(found),
            ("two views of an image", "two images"),
            (BLUE, GRAY),
            ("//", ""),
            strict=True,
        ):
            style = {"color": color, "alpha": 0.65, "hatch": hatch, "edgecolor": "white"}
            axes.hist(100 * values, bins=range(0, 81, 2), label=label, **style)
        p = 100 * encoder.flip_probability
        axes.axvline(p, color=ORANGE, linewidth=1.5, linestyle="--", label="flipped by the channel")
        axes.set_title(f"{when} pretraining", loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel("bits that differ, %", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("pairs", fontsize=9)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture that is the same from day to day."""
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    for name, percent in main().items():
        print(f"{name}: {percent:.1f} % of bits differ")
