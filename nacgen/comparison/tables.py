"""The tables of a comparison, for reports and for the terminal."""

from collections.abc import Sequence
from statistics import fmean, stdev

from nacgen.comparison.compare import Comparison
from nacgen.comparison.compute import cost_table, pretraining_note
from nacgen.comparison.verdict import change, limits
from nacgen.reporting.blocks import Table, to_text
from nacgen.reporting.charts import score
from nacgen.reporting.runs import Run, warnings_of


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """Return the tables, verdicts and limits of a comparison as text for a terminal."""
    first = comparisons[0]
    parts = [f"{first.metric} ({first.better} is better)"]
    parts += [to_text(seed_table(comparison)) for comparison in comparisons]
    parts += [to_text(difference_table(comparisons)), to_text(time_to_score_table(comparisons))]
    arms = arms_of(comparisons)
    parts += [to_text(cost_table(arms)), pretraining_note(arms)]
    parts += [comparison.verdict for comparison in comparisons]
    parts += [limits(len(first.end.seeds), first.end.level, len(comparisons))]
    return "\n\n".join([*parts, *warnings_of(arms.values())])


def seed_table(comparison: Comparison) -> Table:
    """Tabulate the scores of both arms by seed, their change, mean and standard deviation."""
    several = len(comparison.end.seeds) > 1
    header = ["Seed"]
    columns = [[*map(str, comparison.end.seeds), *(["mean", "std"] if several else [])]]
    for point in (comparison.early, comparison.end):
        if point is None:
            continue
        scale = max(point.scores_a + point.scores_b)
        for arm, scores in (comparison.arm_a, point.scores_a), (comparison.arm_b, point.scores_b):
            summary = [fmean(scores), stdev(scores)] if several else []
            header += [f"{arm} {point.when}"]
            columns += [[score(each, scale) for each in [*scores, *summary]]]
        header += ["change"]
        columns += [[*map(change, point.log_ratios), *(["", ""] if several else [])]]
    return Table(header, list(zip(*columns, strict=True)), num_summary=2 if several else 0)


def difference_table(comparisons: Sequence[Comparison]) -> Table:
    """Tabulate mean change, interval and exact test of every comparison at each moment."""
    first, several = comparisons[0], len(comparisons) > 1
    rows = []
    for comparison in comparisons:
        is_lower = comparison.better == "lower"
        for point in comparison.points:
            interval = "one pair gives none"
            if point.interval is not None:
                interval = f"{change(point.interval[0])} to {change(point.interval[1])}"
            corrected = f"{comparison.adjusted_p_value:.2g}" if point is comparison.end else ""
            rows.append(
                [
                    f"{comparison.arm_b} {point.when}",
                    f"{point.num_lower if is_lower else point.num_higher} of {len(point.seeds)}",
                    change(point.mean_log_ratio),
                    interval,
                    f"{point.p_value:.2g}",
                    f"{point.smallest_p_value:.2g}",
                    *([corrected] if several else []),
                ]
            )
    header = [f"Against {first.arm_a}", "better in", "mean change"]
    header += [f"{100 * (1 - first.end.level):.4g} % interval", "exact p", "smallest p"]
    return Table([*header, *(["corrected p"] if several else [])], rows)


def time_to_score_table(comparisons: Sequence[Comparison]) -> Table:
    """Tabulate the images that every run needed to reach the target; `>` if it never did."""
    first = comparisons[0].images_to_score
    arms = {comparisons[0].arm_a: first.images_a}
    arms |= {comparison.arm_b: comparison.images_to_score.images_b for comparison in comparisons}
    rows = [
        [f"seed {seed}"]
        + [
            f"> {first.total_images:,}" if images[pair] is None else f"{images[pair]:,}"
            for images in arms.values()
        ]
        for pair, seed in enumerate(first.seeds)
    ]
    reached = [len(images) - images.count(None) for images in arms.values()]
    rows.append(["reached in", *(f"{count} of {len(first.seeds)}" for count in reached)])
    rows.append(
        ["sooner in", ""]
        + [f"{c.images_to_score.num_sooner} of {len(first.seeds)}" for c in comparisons]
    )
    rows.append(["exact p", ""] + [f"{c.images_to_score.p_value:.2g}" for c in comparisons])
    return Table([f"Images to {score(first.target)}", *arms], rows, num_summary=3)


def arms_of(comparisons: Sequence[Comparison]) -> dict[str, Sequence[Run]]:
    """Return the runs of every arm by its name, the control first."""
    first = comparisons[0]
    return {first.arm_a: first.runs_a, **{each.arm_b: each.runs_b for each in comparisons}}
