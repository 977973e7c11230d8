"""The chart of what codes retrieve: precision against recall, several encoders in one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nacgen.errors import StorageError
from nacgen.reporting.charts import COLORS, FAINT, INK

Curve = tuple[Sequence[float], Sequence[float]]
LINE_STYLES = ("-", "--")  # the colours come round again in another style


def precision_recall_chart(
    curves: Mapping[str, Sequence[Curve]], chance: float, path: str | Path, *, title: str
) -> Path:
    """Draw precision against recall, every seed of an encoder in one colour.

    Args:
        curves: `(recall, precision)` of each seed, by the encoder's name.
        chance: Precision of codes without information.
        path: The PNG to write.
        title: One line above the chart.

    Returns:
        The path.

    Raises:
        StorageError: The file cannot be written.
    """
    figure = Figure(figsize=(7.6, 4.4), dpi=200, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    axes.axhline(chance, color=FAINT, linewidth=1.4, label=f"chance {chance:.2f}", zorder=1)
    for index, (name, seeds) in enumerate(curves.items()):
        style, color = divmod(index, len(COLORS))
        for seed, (recall, precision) in enumerate(seeds):
            axes.plot(
                recall,
                precision,
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
    try:
        figure.savefig(path, metadata={"Software": None})
    except OSError as error:
        raise StorageError(
            f"the chart {path} cannot be written ({error}). Make room and repeat the command."
        ) from error
    return Path(path)
