"""Draw the picture of the README: a GAN from random weights and from a NAC encoder, scores and samples.

nacgen compare --seeds 0 1 2 3 4 5 6 7 --run-dir runs/gan
python docs/pictures/draw_random_and_nac.py runs/gan
"""

import sys
from pathlib import Path
from statistics import fmean

import torch
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nacgen.models.sampling import load_model, sample_images
from nacgen.reporting.recorded_runs import load_run

ARMS = {"random": ("random weights", "#8a8a8a", "--"), "nac": ("NAC encoder", "#0072B2", "-")}
METRIC = "fd_digits_classifier"
PICTURE = Path(__file__).parent / "random_and_nac.png"


def main(runs: str, picture: Path = PICTURE) -> dict[str, float]:
    """Write the picture of all runs `ARM-seedN` in a folder; return the mean score of each arm at the end."""
    figure = Figure(figsize=(9.6, 3.3), dpi=160, facecolor="white", layout="constrained")
    curves, *sheets = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    ends = {}
    for (arm, style), sheet in zip(ARMS.items(), sheets, strict=True):
        folders = sorted(path.parent for path in Path(runs).glob(f"{arm}-seed*/summary.json"))
        if not folders:
            sys.exit(
                f"{runs} must hold finished runs named {arm}-seed0 and so on. `nacgen compare` makes them."
            )
        ends[arm] = draw_curves(curves, folders, *style)
        draw_samples(sheet, folders[0], style[0])
    curves.set_xlabel("images seen", fontsize=9)
    curves.set_title(f"{METRIC}, lower is better", loc="left", fontsize=9)
    curves.set_ylim(0)
    curves.spines[["top", "right"]].set_visible(False)
    curves.legend(frameon=False, fontsize=9)
    figure.savefig(picture)
    return ends


def draw_curves(axes: Axes, folders: list[Path], label: str, color: str, line: str) -> float:
    """Draw the curves of an arm's runs thinly and their mean boldly; return the mean at the end."""
    found = [load_run(folder).curve(METRIC) for folder in folders]
    for curve in found:
        axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.7, alpha=0.5)
    mean = {
        at: fmean(curve[at] for curve in found) for at in found[0] if all(at in c for c in found)
    }
    axes.plot(
        list(mean),
        list(mean.values()),
        line,
        color=color,
        linewidth=2.4,
        label=f"{label}, mean of {len(found)} seeds",
    )
    return mean[max(mean)]


def draw_samples(axes: Axes, folder: Path, label: str) -> None:
    """Draw a sheet of 6 x 6 samples of a run's generator, image `i` from seed `i`."""
    images = sample_images(load_model(folder), torch.arange(36))  # uint8 (36, 3, h, w)
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1), value=96)
    sheet = rearrange(framed, "(r c) rgb h w -> (r h) (c w) rgb", r=6)
    axes.imshow(sheet)
    axes.set_title(f"samples, {label}", loc="left", fontsize=9)
    axes.set_axis_off()


if __name__ == "__main__":
    print({arm: round(end, 2) for arm, end in main(sys.argv[1]).items()})
