"""Charts of scores against images seen: PNG on white, drawn without pyplot's global state."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from nacgen.reporting.recorded_runs import RecordedRun, better
from nacgen.system.files import storage_errors, write_file

if TYPE_CHECKING:  # matplotlib takes a second to import, and is not until something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Gray for the control; the next four by Okabe & Ito 2008, safe for color-blind readers.
COLORS = (
    *("#5f6670", "#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#8c6bb1", "#a07800", "#56b4e9", "#7a3b1e"),
)
INK, FAINT = "#1f2328", "#d9dce1"
TITLE_WIDTH = 62  # characters in one line above the chart
LABEL_GAP = 0.055  # smallest distance between two labels, as a fraction of the axis
_BOLD: dict[str, Any] = {"linewidth": 2.4, "marker": "o", "markersize": 4.5}
_THIN: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5}
Curve = Mapping[int, float]
Line = tuple[Curve, str, str | None]  # scores by images seen, color, and the label of a bold line


def comparison_chart(
    arms: Mapping[str, Sequence[RecordedRun]], metric: str, path: str | Path, *, title: str
) -> Path:
    """Draw the score of every arm, the control first, against images seen, and return the path of the PNG file.

    A thin line shows each seed, a bold one their mean.
    """
    lines: list[Line] = []
    for index, (arm, runs) in enumerate(arms.items()):
        seeds, color = [run.curve(metric) for run in runs], COLORS[index % len(COLORS)]
        lines += [(curve, color, None) for curve in seeds]
        common = sorted(set.intersection(*map(set, seeds)))
        mean = {seen: fmean(curve[seen] for curve in seeds) for seen in common}
        lines.append((mean, color, f"{arm} {score(mean[common[-1]])}"))
    several = any(len(runs) > 1 for runs in arms.values())
    note = "bold: mean over seeds, thin: every seed" if several else "one seed"
    return _line_chart(lines, metric, Path(path), title, note)


def run_curve(run: RecordedRun, metric: str, path: str | Path) -> Path:
    """Draw the score of one run against images seen, and return the path of the PNG file."""
    curve = run.curve(metric)
    end, value = max(curve.items())
    title, note = f"{score(value)} after {end:,} images", f"{run.arm}, seed {run.seed}"
    return _line_chart([(curve, COLORS[1], score(value))], metric, Path(path), title, note)


def score(value: float, scale: float | None = None) -> str:
    """Format a score with four significant digits, as a rule without an exponent: `11.62`, `0.001234`, `12,346`.

    The number of decimals is that of `scale`, which aligns a column, or else of the score itself.
    """
    size = abs(value if scale is None else scale)
    if not (size == 0 or 1e-9 < size < 1e15):
        return f"{value:.4g}"  # also for NaN and infinity
    magnitude = math.floor(math.log10(size)) if size else 0
    return f"{value:,.{max(0, 3 - magnitude)}f}"


def _line_chart(lines: Sequence[Line], metric: str, path: Path, title: str, note: str) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4), dpi=200, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    title = textwrap.fill(title, TITLE_WIDTH)
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK, pad=22)
    axes.text(0, 1.025, note, transform=axes.transAxes, fontsize=9, color=COLORS[0], va="bottom")
    axes.set_xlabel("images seen", fontsize=9.5, color=INK)
    axes.set_ylabel(f"{metric} ({better(metric)} is better)", fontsize=9.5, color=INK)
    style_axes(axes, "y")
    for curve, color, label in lines:
        style = _THIN if label is None else _BOLD
        axes.plot(list(curve), list(curve.values()), color=color, **style)
    _scale(axes, [value for curve, _, _ in lines for value in curve.values()])
    _label_ends(axes, lines)
    return save_chart(figure, path)


def style_axes(axes: "Axes", grid: Literal["x", "y"]) -> None:
    """Leave of the frame a faint line below the data, and a faint grid across one axis behind them."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def _scale(axes: "Axes", values: Sequence[float]) -> None:
    """Start the time axis at zero; use a log scale for scores that span a factor of two."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
    )

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


def _label_ends(axes: "Axes", lines: Sequence[Line]) -> None:
    """Write each bold line's label at its end, moved up where two would overlap."""
    ends = [(curve[max(curve)], label, color) for curve, color, label in lines if label]
    to_axes = axes.transScale + axes.transLimits
    style: dict[str, Any] = {"fontsize": 10, "fontweight": "bold", "va": "center"}
    lowest = float("-inf")
    for value, label, color in sorted(ends):
        height = max(float(to_axes.transform((1, value))[1]), lowest)
        lowest = height + LABEL_GAP
        axes.text(1.02, height, label, transform=axes.transAxes, color=color, **style)


def save_chart(figure: "Figure", path: str | Path) -> Path:
    """Write a figure as a PNG file and return its path; a dollar sign in a name is no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    with storage_errors(f"the chart {path}", "Mend the folder, and repeat the command."):
        write_file(Path(path), content.getvalue())
    return Path(path)
