"""The result of a comparison as tables for a paper: Markdown, LaTeX and the scores of every run as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nacgen.comparison.paired_comparison import Comparison
from nacgen.comparison.statistics import PairedScores
from nacgen.comparison.verdict import NO_INTERVAL, change, interval_of
from nacgen.reporting.blocks import Table, to_fragment, to_markdown
from nacgen.reporting.charts import score
from nacgen.system.files import storage_errors, write_file

# Characters that LaTeX reads otherwise, and those that old engines do not know.
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\N{MINUS SIGN}": "$-$",
        "\N{PLUS-MINUS SIGN}": r"$\pm$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "\N{UPWARDS ARROW}": r"$\uparrow$",
        "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    }
)


@dataclass(frozen=True, repr=False)
class ComparisonResult:
    """The comparison of several arms with one control, to be read, printed in a paper, or looked at in a notebook.

    Attributes:
        comparisons: One comparison for each arm but the control.
        reports: Paths of the report as Markdown and HTML, empty where none was written.
    """

    comparisons: tuple[Comparison, ...]
    reports: tuple[Path, ...] = ()

    @property
    def verdicts(self) -> list[str]:
        """One sentence on each arm but the control."""
        return [comparison.verdict for comparison in self.comparisons]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return names, verdict, scores and statistics of each arm but the control, ready for JSON."""
        return [comparison.to_dict() for comparison in self.comparisons]

    def to_markdown(self) -> str:
        """Return the table of arms in Markdown."""
        return to_markdown([arms_table(self.comparisons)], Path())

    def to_latex(self) -> str:
        """Return the table of arms in LaTeX; it needs the package booktabs."""
        table = arms_table(self.comparisons)
        rows = [["--" if cell == NO_INTERVAL else cell for cell in row] for row in table.rows]
        lines = [[cell.translate(LATEX) for cell in row] for row in (table.header, *rows)]
        head, *body = (" & ".join(line) + r" \\" for line in lines)
        columns = "l" + "r" * (len(table.header) - 1)
        parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body]
        parts += [r"\bottomrule"]
        if rows != table.rows:
            note = rf"{{{{\footnotesize --: {NO_INTERVAL}}}}} \\"
            parts += [rf"\multicolumn{{{len(table.header)}}}{{l}}{note}"]
        return "\n".join([*parts, r"\end{tabular}"]) + "\n"

    def to_csv(self) -> str:
        """Return the score of every run at every moment, one row each, with all digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["arm", "seed", "when", "images_seen", "metric", "score"])
        first = self.comparisons[0]
        measured = [(first.arm_a, point, point.scores_a) for point in first.points]
        for each in self.comparisons:
            measured += [(each.arm_b, point, point.scores_b) for point in each.points]
        for arm, point, scores in measured:
            at = (point.when, point.images_seen, first.metric)
            writer.writerows((arm, s, *at, x) for s, x in zip(point.seeds, scores, strict=True))
        return text.getvalue()

    def __repr__(self) -> str:
        """Return the verdicts, one a line."""
        return "\n".join(self.verdicts)

    def _repr_html_(self) -> str:
        """Return verdicts and the table of arms as HTML, for notebooks."""
        paths = map(str, self.reports[-1:])
        return to_fragment([*self.verdicts, arms_table(self.comparisons), *paths], Path())


def num_better(comparison: Comparison, point: PairedScores) -> int:
    """Return the number of pairs in which the second arm scored better."""
    return point.num_lower if comparison.better == "lower" else point.num_higher


def arms_table(comparisons: Sequence[Comparison]) -> Table:
    """Tabulate each arm at the end, the control first: mean and deviation, change, interval and exact test."""
    first, several = comparisons[0], len(comparisons) > 1
    arrow = "\N{DOWNWARDS ARROW}" if first.better == "lower" else "\N{UPWARDS ARROW}"
    header = ["arm", f"{first.metric} {arrow}", f"change against {first.arm_a}"]
    header += [f"{100 * (1 - first.end.level):.4g} % interval", "better in", "exact p"]
    header += ["corrected p"] if several else []
    rows = [[first.arm_a, _spread(first.end.scores_a), *[""] * (len(header) - 2)]]
    for comparison in comparisons:
        end = comparison.end
        count = f"{num_better(comparison, end)} of {len(end.seeds)}"
        row = [comparison.arm_b, _spread(end.scores_b), change(end.mean_log_ratio)]
        row += [interval_of(end), count, f"{end.p_value:.2g}"]
        rows.append([*row, f"{comparison.adjusted_p_value:.2g}"] if several else row)
    return Table(header, rows)


def write_tables(comparisons: Sequence[Comparison], folder: Path) -> None:
    """Write `table.md`, `table.tex` and `scores.csv` of a comparison into an existing folder."""
    result = ComparisonResult(tuple(comparisons))
    contents = {"table.md": result.to_markdown(), "table.tex": result.to_latex()}
    for name, text in (contents | {"scores.csv": result.to_csv()}).items():
        path = folder / name
        with storage_errors(f"the table {path}", "Mend the folder, and repeat the command."):
            write_file(path, text)


def _spread(scores: Sequence[float]) -> str:
    mean = score(fmean(scores))
    return mean if len(scores) < 2 else f"{mean} ± {score(stdev(scores), fmean(scores))}"
