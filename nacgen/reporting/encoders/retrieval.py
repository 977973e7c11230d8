"""A chart of retrieval by code: precision against recall, several encoders in one."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nacgen.reporting.charts import COLORS, FAINT, INK, save_chart
from nacgen.reporting.encoders.report import Measurement, by_name

LINE_STYLES = ("-", "--")  # the colors are used again in another style


def retrieval_chart(measurements: Sequence[Measurement], path: Path) -> Path:
    """Draw precision against recall of the learned codes, all seeds of an encoder in one color."""
    figure = Figure(figsize=(7.6, 4.4), dpi=200, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    title = "Retrieval by the learned code"
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    chance = measurements[0].results["retrieval"]["code"]["chance"]
    axes.axhline(chance, color=FAINT, linewidth=1.4, label=f"chance {chance:.2f}", zorder=1)
    for index, (name, seeds) in enumerate(by_name(measurements).items()):
        style, color = divmod(index, len(COLORS))
        for seed, results in enumerate(seeds):
            curve = results["retrieval"]["code"]["curve"]
            axes.plot(
                curve["recall"],
                curve["precision"],
                LINE_STYLES[style % len(LINE_STYLES)],
                color=COLORS[color],
                linewidth=1.5,
                label=None if seed else name,
            )
    axes.set_xlabel("recall, pairs up to each Hamming distance", fontsize=9.5, color=INK)
    axes.set_ylabel("precision", fontsize=9.5, color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False, labelcolor=INK)
    return save_chart(figure, path)
