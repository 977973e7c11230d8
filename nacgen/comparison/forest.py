"""The forest plot of a comparison: mean change, interval and pairs of every endpoint.

Lewis & Clarke 2001, Forest plots: trying to see the wood and the trees.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nacgen.comparison.paired_comparison import Comparison
from nacgen.comparison.statistics import ImagesToScore, PairedScores
from nacgen.comparison.verdict import change
from nacgen.reporting.charts import COLORS, INK, PAPER, save_chart, score, style_axes

ROW_INCHES = 0.36
TICKS = (  # percent
    *(-95, -90, -80, -70, -60, -50, -40, -30, -20, -10, -5, -2, 0, 2, 5, 10, 20, 30, 50, 75),
    *(100, 150, 200, 300, 400, 600, 900, 1_900),
)
TICK_GAP = 0.15  # smallest distance of two ticks, as a fraction of the axis
Row = tuple[str, PairedScores | ImagesToScore]


def forest_rows(comparison: Comparison) -> list[Row]:
    """Return the endpoints of one comparison by label: its scores at each moment, then images to a score."""
    time = comparison.images_to_score
    points = [(f"score {point.when}", point) for point in comparison.points]
    return [*points, (f"images to {score(time.target)}", time)]


def forest_plot(comparisons: Sequence[Comparison], path: str | Path) -> Path:
    """Draw every endpoint of comparisons with one control as an SVG file, and return its path."""
    first = comparisons[0]
    blocks = [(comparison, forest_rows(comparison)) for comparison in comparisons]
    num_lines = sum(len(rows) + 1 for _, rows in blocks)
    height = 0.98 + ROW_INCHES * num_lines
    figure = Figure(figsize=(7.6, height), facecolor=PAPER)
    axes = figure.add_axes((0.26, 0.35 / height, 0.42, ROW_INCHES * num_lines / height))
    limits = _limits([row for _, rows in blocks for row in rows])
    _frame(axes, limits, num_lines)
    line = 0
    for index, (comparison, rows) in enumerate(blocks, start=1):
        color = COLORS[index % len(COLORS)]
        _text(axes, -0.6, line, comparison.arm_b, color=color, weight="bold")
        for at, row in enumerate(rows, start=line + 1):
            _draw(axes, at, row, limits, color, is_verdict=row[1] is comparison.end)
        line += len(rows) + 1
    style: dict[str, Any] = {"fontsize": 11.5, "fontweight": "bold", "color": INK}
    figure.text(0.012, 1 - 0.3 / height, f"Change against {first.arm_a}", **style)
    level = f"{100 * (1 - first.end.level):.4g} %"
    note = (
        f"{first.metric}: {first.better} is better; images: fewer are better. "
        f"Diamond: mean, bar: {level} interval, circles: pairs."
    )
    figure.text(0.012, 1 - 0.52 / height, note, fontsize=8.5, color=COLORS[0])
    return save_chart(figure, path)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the ends of the axis: it shows every pair, and intervals up to three times as far."""
    pairs = [ratio for _, endpoint in rows for ratio in endpoint.log_ratios or ()]
    reach = 3 * (max(map(abs, pairs), default=0.0) or 0.1)
    ends = [max(-reach, min(end, reach)) for _, row in rows for end in row.interval or ()]
    low, high = min([*pairs, *ends, -0.05]), max([*pairs, *ends, 0.05])
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _frame(axes: Axes, limits: tuple[float, float], num_lines: int) -> None:
    axes.set_xlim(limits)
    axes.set_ylim(num_lines - 0.4, -0.6)
    style_axes(axes, "x")
    axes.yaxis.set_major_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(tick_places(*limits)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: _tick(ratio)))
    axes.axvline(0, color=INK, linewidth=0.9)


def tick_places(low: float, high: float) -> list[float]:
    """Return the ticks between two log ratios: zero and round changes, as far as there is room."""
    places = [0.0]
    for percent in sorted(TICKS, key=abs, reverse=True):
        place = math.log1p(percent / 100)
        if low < place < high and all(abs(place - at) > TICK_GAP * (high - low) for at in places):
            places.append(place)
    return sorted(places)


def _draw(
    axes: Axes, line: int, row: Row, limits: tuple[float, float], color: str, is_verdict: bool
) -> None:
    label, endpoint = row
    weight = "bold" if is_verdict else "normal"
    _text(axes, -0.58, line, label, weight=weight)
    if isinstance(endpoint, ImagesToScore) and endpoint.log_ratios is None:
        order = f"sooner in {endpoint.num_sooner}, later in {endpoint.num_later}"
        remark = f"{order} of {len(endpoint.seeds)}; {endpoint.num_censored} never"
        _text(axes, 1.04, line, remark, color=COLORS[0], size=8)
        return
    ratios, mean = endpoint.log_ratios or (), endpoint.mean_log_ratio or 0.0
    figures = change(mean)
    if endpoint.interval is not None:
        low, high = endpoint.interval
        figures += f"  ({change(low)} to {change(high)})".replace(" %", "")
        ends = max(low, limits[0]), min(high, limits[1])
        axes.plot(ends, (line, line), color=color, linewidth=3.4 if is_verdict else 1.8, alpha=0.75)
        for end, shown, arrow in zip((low, high), ends, "<>", strict=True):
            if end != shown:  # the interval continues outside
                axes.plot([shown], [line], arrow, color=color, markersize=6, clip_on=False)
    below = [line + 0.27] * len(ratios)
    axes.plot(ratios, below, "o", color=color, markersize=3, markerfacecolor=PAPER)
    axes.plot([mean], [line], "D", color=color, markersize=6.5 if is_verdict else 5)
    _text(axes, 1.04, line, figures, weight=weight, size=8.5)


def _text(axes: Axes, x: float, line: float, text: str, **options: Any) -> None:
    """Write beside the axes, `x` in widths of the axes and `line` in rows."""
    options = {"color": INK, "size": 9, "va": "center", **options}
    axes.text(x, line, text, transform=axes.get_yaxis_transform(), **options)


def _tick(log_ratio: float) -> str:
    percent = round(100 * math.expm1(log_ratio))
    return "0" if percent == 0 else f"{percent:+,d} %".replace("-", "\N{MINUS SIGN}")
