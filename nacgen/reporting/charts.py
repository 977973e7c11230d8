"""Charts of scores against images seen: PNG on white, drawn without pyplot's global state."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from nacgen.errors import StorageError
from nacgen.reporting.runs import Run, better

# Grey for the control; the next by Okabe & Ito 2008, safe for the colour-blind; more for many arms.
COLORS = (
    *("#5f6670", "#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#8c6bb1", "#a07800", "#56b4e9", "#7a3b1e"),
)
INK, FAINT = "#1f2328", "#d9dce1"
TITLE_WIDTH = 62  # letters that fit over the chart in one line
LABEL_GAP = 0.055  # of the axis: the least distance between two labels at the lines' ends
_BOLD: dict[str, Any] = {"linewidth": 2.4, "marker": "o", "markersize": 4.5}


def comparison_chart(
    arms: Mapping[str, Sequence[Run]], metric: str, path: str | Path, *, title: str
) -> Path:
    """Draw the score of every arm against images seen: each seed thin, their mean bold.

    Args:
        arms: Runs by the arm's name, the control first.
        metric: The metric drawn.
        path: The PNG to write.
        title: Above the chart.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written.
    """
    curves = {arm: [run.curve(metric) for run in runs] for arm, runs in arms.items()}
    num_seeds = max(map(len, curves.values()))
    note = "bold: mean over seeds, thin: every seed" if num_seeds > 1 else "one seed"
    figure, axes = _canvas(title, metric, note)
    ends = []
    for index, (arm, seeds) in enumerate(curves.items()):
        color = COLORS[index % len(COLORS)]
        for curve in seeds:
            axes.plot(list(curve), list(curve.values()), color=color, linewidth=0.9, alpha=0.5)
        common = sorted(set.intersection(*map(set, seeds)))
        mean = [fmean(curve[seen] for curve in seeds) for seen in common]
        axes.plot(common, mean, color=color, **_BOLD)
        ends.append((mean[-1], f"{arm} {score(mean[-1])}", color))
    drawn = [curve for seeds in curves.values() for curve in seeds]
    _scale(axes, [value for curve in drawn for value in curve.values()])
    _label_ends(axes, ends)
    return save_chart(figure, path)


def run_curve(run: Run, metric: str, path: str | Path) -> Path:
    """Draw the score of one run against images seen.

    Args:
        run: The run.
        metric: The metric drawn.
        path: The PNG to write.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written.
    """
    curve = run.curve(metric)
    end, value = max(curve.items())
    note = f"{run.arm}, seed {run.seed}"
    figure, axes = _canvas(f"{score(value)} after {end:,} images", metric, note)
    axes.plot(list(curve), list(curve.values()), color=COLORS[1], **_BOLD)
    _scale(axes, list(curve.values()))
    _label_ends(axes, [(value, score(value), COLORS[1])])
    return save_chart(figure, path)


def score(value: float, scale: float | None = None) -> str:
    """A score with four significant digits, never in powers of ten: `11.62`, `0.001234`, `12,346`.

    Args:
        value: The score.
        scale: Another value whose number of decimals is used, to align a column. Absent: its own.

    Returns:
        The text.
    """
    size = abs(value if scale is None else scale)
    magnitude = math.floor(math.log10(size)) if size else 0
    return f"{value:,.{max(0, 3 - magnitude)}f}"


def _canvas(title: str, metric: str, note: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, 4.4), dpi=200, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lines = textwrap.fill(title, TITLE_WIDTH)
    axes.set_title(lines, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=22)
    axes.text(0, 1.025, note, transform=axes.transAxes, fontsize=9, color=COLORS[0], va="bottom")
    axes.set_xlabel("images seen", fontsize=9.5, color=INK)
    axes.set_ylabel(f"{metric} ({better(metric)} is better)", fontsize=9.5, color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Start the time axis at zero; take logarithms of scores that span a factor of two."""
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seen, _: f"{seen:,.0f}"))
    if max(values) > 2 * min(values) > 0:
        axes.set_yscale("log")
        axes.set_ylabel(f"{axes.get_ylabel()}, log scale")
        steps = (1, 2, 5) if max(values) > 10 * min(values) else (1, 1.5, 2, 3, 4, 5, 7)
        axes.yaxis.set_major_locator(LogLocator(subs=steps))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.margins(y=0.15)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name at its end, moved up where two would overlap."""
    to_axes = axes.transScale + axes.transLimits
    lowest = float("-inf")
    for value, text, color in sorted(ends):
        height = max(float(to_axes.transform((1, value))[1]), lowest)
        lowest = height + LABEL_GAP
        axes.text(
            1.02,
            height,
            text,
            transform=axes.transAxes,
            color=color,
            fontsize=10,
            fontweight="bold",
            va="center",
        )


def save_chart(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG.

    Args:
        figure: The figure.
        path: The file.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        figure.savefig(path, metadata={"Software": None})
    except OSError as error:
        raise StorageError(
            f"the chart {path} cannot be written ({error}). Make room and repeat the command."
        ) from error
    return Path(path)
