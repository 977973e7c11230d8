"""Charts of values against images seen: SVG that follows dark mode, drawn without pyplot's global state.

Lines differ in color, dashes and markers, so that none of these is the only sign.
"""

import io
import math
import re
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
INK, FAINT, PAPER = "#1f2328", "#d9dce1", "#ffffff"
# The same colors on dark paper.
IN_THE_DARK = dict(
    zip(
        (*COLORS, INK, FAINT, PAPER),
        (
            *("#a3abb5", "#5aa9e6", "#ff8a3d", "#2fc79a", "#e39cc3"),
            *("#b394d6", "#d1a730", "#8ed1fc", "#c98563"),
            *("#e6e8eb", "#454c55", "#15181c"),
        ),
        strict=True,
    )
)
DASHES, MARKERS = ("-", "--", "-.", ":"), "os^Dv"
WIDTH, HEIGHT = 4.6, 3.2  # inches; texts of 9 points are still readable on a phone, 390 pixels wide
TITLE_WIDTH = 44  # characters in one line above the chart
LABEL_WIDTH = 30  # and beside the vertical axis, which is short below a title of three lines
LABEL_GAP = 0.08  # smallest distance between two labels, as a fraction of the axis
_THIN: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.5, "marker": None}
Curve = Mapping[int, float]
# Values by images seen, number of the style, label of a bold line.
Line = tuple[Curve, int, str | None]


def comparison_chart(
    arms: Mapping[str, Sequence[RecordedRun]], metric: str, path: str | Path, *, title: str
) -> Path:
    """Draw the score of every arm, the control first, against images seen, and return the path of the SVG file.

    A thin line shows each seed, a bold one their mean.
    """
    lines: list[Line] = []
    for index, (arm, runs) in enumerate(arms.items()):
        seeds = [run.curve(metric) for run in runs]
        lines += [(curve, index, None) for curve in seeds]
        common = sorted(set.intersection(*map(set, seeds)))
        mean = {seen: fmean(curve[seen] for curve in seeds) for seen in common}
        lines.append((mean, index, f"{arm} {score(mean[common[-1]])}"))
    several = any(len(runs) > 1 for runs in arms.values())
    note = "bold: mean over seeds, thin: every seed" if several else "one seed"
    return line_chart(lines, f"{metric} ({better(metric)} is better)", path, title, note)


def run_curve(run: RecordedRun, metric: str, path: str | Path) -> Path:
    """Draw the score of one run against images seen, and return the path of the SVG file."""
    curve = run.curve(metric)
    end, value = max(curve.items())
    title, note = f"{score(value)} after {end:,} images", f"{run.arm}, seed {run.seed}"
    label = f"{metric} ({better(metric)} is better)"
    return line_chart([(curve, 1, score(value))], label, path, title, note)


def score(value: float, scale: float | None = None) -> str:
    """Format a score with four significant digits, as a rule without an exponent: `11.62`, `0.001234`, `12,346`.

    The number of decimals is that of `scale`, which aligns a column, or else of the score itself.
    """
    size = abs(value if scale is None else scale)
    if not (size == 0 or 1e-9 < size < 1e15):
        return f"{value:.4g}"  # also for NaN and infinity
    magnitude = math.floor(math.log10(size)) if size else 0
    return f"{value:,.{max(0, 3 - magnitude)}f}"


def style_of(index: int) -> dict[str, Any]:
    """Return color, dashes and marker of a line; twenty in turn differ in dashes or marker."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def line_chart(
    lines: Sequence[Line],
    label: str,
    path: str | Path,
    title: str,
    note: str,
    *,
    may_be_log: bool = True,
) -> Path:
    """Draw lines over images seen, with `label` beside the vertical axis, and return the path of the SVG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    title = textwrap.fill(title, TITLE_WIDTH)
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=20)
    axes.text(0, 1.025, note, transform=axes.transAxes, fontsize=9, color=COLORS[0], va="bottom")
    axes.set_xlabel("images seen", fontsize=9.5, color=INK)
    axes.set_ylabel(label, fontsize=9.5, color=INK)
    style_axes(axes, "y")
    for curve, index, end in lines:
        style = {"linewidth": 2, "markersize": 5, **style_of(index)}
        style |= _THIN if end is None else {}
        if len(curve) == 1:  # a line of one point is drawn by its marker alone
            style["marker"] = style_of(index)["marker"]
        axes.plot(list(curve), list(curve.values()), clip_on=False, **style)
    _scale(axes, [value for curve, _, _ in lines for value in curve.values()], may_be_log)
    axes.set_ylabel(textwrap.fill(axes.get_ylabel(), LABEL_WIDTH))
    _label_ends(axes, lines)
    return save_chart(figure, path)


def style_axes(axes: "Axes", grid: Literal["x", "y"]) -> None:
    """Leave of the frame a faint line below the data, and a faint grid across one axis behind them."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(axis=grid, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def _scale(axes: "Axes", values: Sequence[float], may_be_log: bool) -> None:
    """Start the time axis at zero; if it may be, the other is a log scale for values that span a factor of two."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
    )

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seen, _: f"{seen:,.0f}"))
    if may_be_log and max(values) > 2 * min(values) > 0:
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
    ends = [
        (curve[max(curve)], label, COLORS[i % len(COLORS)]) for curve, i, label in lines if label
    ]
    axes.get_ylim()  # which first takes the data into account
    to_axes = axes.transScale + axes.transLimits
    style: dict[str, Any] = {"fontsize": 10, "fontweight": "bold", "va": "center"}
    lowest = float("-inf")
    for value, label, color in sorted(ends):
        height = max(float(to_axes.transform((1, value))[1]), lowest)
        lowest = height + LABEL_GAP
        axes.text(1.02, height, label, transform=axes.transAxes, color=color, **style)


def save_chart(figure: "Figure", path: str | Path) -> Path:
    """Write a figure as an SVG or PNG file and return its path; a dollar sign in a name is no formula."""
    import matplotlib as mpl
    from matplotlib.text import Text

    path = Path(path)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    content = io.BytesIO()
    if path.suffix == ".png":
        figure.savefig(content, format="png", metadata={"Software": None})
    else:
        # Texts stay texts; ids and bytes are functions of the figure.
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nacgen"}):
            metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(content, format="svg", metadata=metadata)
        content = io.BytesIO(_following_dark_mode(content.getvalue().decode()).encode())
    with storage_errors(f"the chart {path}", "Mend the folder, and repeat the command."):
        write_file(path, content.getvalue())
    return path


def _following_dark_mode(svg: str) -> str:
    """Give the colors of an SVG others for dark paper; its fonts become the reader's.

    The light colors stay in place for viewers that know no such rules, as those of LaTeX and of office suites.
    """
    rules = (
        f'[style*="{name}: {light}"]{{{name}:{dark}!important}}'
        for light, dark in IN_THE_DARK.items()
        for name in ("fill", "stroke")
        if f"{name}: {light}" in svg
    )
    style = f"@media(prefers-color-scheme:dark){{{''.join(rules)}}}"
    svg = re.sub("'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    return svg.replace("<defs>", f"<style>{style}</style>\n <defs>", 1)
