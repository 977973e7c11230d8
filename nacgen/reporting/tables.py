"""The tables of a comparison, for reports and for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from nacgen.reporting.blocks import Table, to_text
from nacgen.reporting.charts import score
from nacgen.reporting.comparison import Comparison, PairedScores
from nacgen.reporting.runs import Run, better
from nacgen.reporting.verdict import change, limits


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """The tables, verdicts and limits of a comparison, for a terminal."""
    first = comparisons[0]
    parts = [f"{first.metric} ({better(first.metric)} is better)"]
    parts += [to_text(seed_table(comparison)) for comparison in comparisons]
    parts += [to_text(difference_table(comparisons)), to_text(time_table(arms_of(comparisons)))]
    parts += [comparison.verdict for comparison in comparisons]
    parts += [limits(len(first.end.seeds)), *warnings_of(arms_of(comparisons).values())]
    return "\n\n".join(parts)


def seed_table(comparison: Comparison) -> Table:
    """Every seed's scores in both arms and their change, with mean and standard deviation."""
    several = len(comparison.end.seeds) > 1
    header = ["Seed"]
    columns = [[*map(str, comparison.end.seeds), *(["mean", "std"] if several else [])]]
    for when, point in _points(comparison):
        scale = max(point.scores_a + point.scores_b)
        for arm, scores in (comparison.arm_a, point.scores_a), (comparison.arm_b, point.scores_b):
            summary = [fmean(scores), stdev(scores)] if several else []
            header += [f"{arm} {when}"]
            columns += [[score(each, scale) for each in [*scores, *summary]]]
        header += ["change"]
        columns += [[*map(change, point.log_ratios), *(["", ""] if several else [])]]
    return Table(header, list(zip(*columns, strict=True)), num_summary=2 if several else 0)


def difference_table(comparisons: Sequence[Comparison]) -> Table:
    """Mean change, interval and exact test of every comparison at every moment."""
    rows = []
    for comparison in comparisons:
        for when, point in _points(comparison):
            interval = "one pair gives none"
            if point.interval is not None:
                interval = f"{change(point.interval[0])} to {change(point.interval[1])}"
            rows.append(
                [
                    f"{comparison.arm_b} against {comparison.arm_a} {when}",
                    f"{point.images_seen:,}",
                    f"{point.num_lower} of {len(point.seeds)}",
                    change(point.mean_log_ratio),
                    interval,
                    f"{point.p_value:.2g}",
                    f"{point.smallest_p_value:.2g}",
                ]
            )
    header = ["Comparison", "images seen", "lower in", "mean change", "95 % interval", "exact p"]
    return Table([*header, "smallest p"], rows)


def time_table(arms: Mapping[str, Sequence[Run]]) -> Table:
    """Seconds that each arm took, training and scoring, without pretraining."""
    rows = []
    for arm, runs in arms.items():
        seconds = [float(run.summary["seconds"]) for run in runs if run.summary is not None]
        rows.append([arm, str(len(runs)), f"{fmean(seconds):,.1f}", f"{sum(seconds):,.1f}"])
    return Table(["Arm", "runs", "seconds a run", "seconds in all"], rows)


def arms_of(comparisons: Sequence[Comparison]) -> dict[str, Sequence[Run]]:
    """The runs of every arm by its name, the control first."""
    first = comparisons[0]
    return {first.arm_a: first.runs_a, **{each.arm_b: each.runs_b for each in comparisons}}


def warnings_of(arms: Iterable[Sequence[Run]]) -> list[str]:
    """What the last evaluations complained of, each complaint once."""
    last = [run.evaluations[-1] for runs in arms for run in runs]
    texts = dict.fromkeys(text for evaluation in last for text in evaluation.warnings)
    return [f"Warning: {text}" for text in texts]


def _points(comparison: Comparison) -> list[tuple[str, PairedScores]]:
    """The moments at which scores were compared, with their names."""
    points = [("at the end", comparison.end)]
    if comparison.early is not None:
        points.insert(0, (f"at {100 * comparison.early.fraction:.0f} %", comparison.early))
    return points
