"""The report of a comparison as a page and as text: verdict, charts, tables, samples, cost and protocol."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from nacgen.comparison.compute import COST_NOTE, cost_table, pretraining_note
from nacgen.comparison.forest import forest_plot
from nacgen.comparison.paired_comparison import Comparison
from nacgen.comparison.tables import num_better, write_tables
from nacgen.comparison.verdict import change, interval_of, limits, listed
from nacgen.reporting.blocks import Block, Images, Table, to_text
from nacgen.reporting.charts import comparison_chart, score
from nacgen.reporting.recorded_runs import RecordedRun, warnings_of
from nacgen.reporting.run_report import Reports, bias_note, mapping_table, samples, write_blocks

_METHOD = (
    "A change is the score of an arm relative to the control's score with the same seed. Mean and interval "
    "are those of the logarithm of that ratio (Student's t). The exact test flips the signs of the "
    "logarithms in every way; smallest p is the lowest p that this number of pairs can give. Over all of "
    "training, the score of a run is its geometric mean over the images seen. "
    "The verdict depends only on the scores at the end; the other rows describe."
)

_TIME = (
    "Images at the first evaluation with a score of {} or {}. A run that did not reach it within {:,} images is "
    "censored: it counts as later than all others and enters no mean. The test is the exact sign test, which "
    "needs only the order within each pair."
)

_CORRECTION = (
    "Corrected p is the exact p at the end after Holm, for {} comparisons with one control: the error rate holds "
    "for all claims together. Intervals are those of each comparison alone."
)


def write_comparison_report(
    comparisons: Sequence[Comparison],
    run_dir: str | Path,
    diverged: Mapping[str, Collection[int]] | None = None,
) -> Reports:
    """Write `report.md`, `report.html`, `curve.svg` and `forest.svg` of a comparison into an existing folder.

    Beside them come `table.md`, `table.tex` and `scores.csv`, see `nacgen.comparison.tables`.

    `diverged` has the seeds with which each arm diverged, including arms that were left out.
    """
    base, first = Path(run_dir), comparisons[0]
    arms = arms_of(comparisons)
    pairs, metric = len(first.end.seeds), first.metric
    paired_seeds = f"{pairs} paired seed{'s' if pairs > 1 else ''}"
    title = f"{' and '.join(list(arms)[1:])} against {first.arm_a}: {metric}, {paired_seeds}"
    counts = ", ".join(f"{each.arm_b} in {num_better(each, each.end)}" for each in comparisons)
    better = first.better.capitalize()
    finding = f"{better} than {first.arm_a} at the end: {counts} of {paired_seeds}"
    curves = comparison_chart(arms, metric, base / "curve.svg", title=finding)
    forest = forest_plot(comparisons, base / "forest.svg")
    moments = [point.images_seen for point in (first.early, first.end) if point is not None]
    blocks: list[Block] = [f"> {comparison.verdict}" for comparison in comparisons]
    found = {first.arm_a: first.diverged_a, **{each.arm_b: each.diverged_b for each in comparisons}}
    blocks += divergence_notes(diverged or found)
    blocks += [
        Images([curves], [f"`{metric}` against images seen, {listed(first.end.seeds)}"], "chart"),
        Images([forest], ["Mean changes, their intervals, and every pair"], "wide chart"),
        "## Every seed",
        *map(seed_table, comparisons),
        "## Paired differences",
        difference_table(comparisons),
        _METHOD,
        limits(pairs, first.end.level, len(comparisons)),
    ]
    if len(comparisons) > 1:
        blocks += [_CORRECTION.format(len(comparisons))]
    blocks += ["## Images to a score", time_to_score_table(comparisons)]
    time = first.images_to_score
    blocks += [_TIME.format(score(time.target), first.better, time.total_images)]
    blocks += samples({arm: runs[0] for arm, runs in arms.items()}, moments)
    blocks += ["## Time and compute", cost_table(arms), pretraining_note(arms), COST_NOTE]
    blocks += ["## Protocol of the scores", mapping_table("Field", first.end.protocol)]
    blocks += [bias_note([run for runs in arms.values() for run in runs], metric)]
    blocks += warnings_of(arms.values())
    blocks += ["## Differences between the arms", *map(_configuration_differences, comparisons)]
    write_tables(comparisons, base)
    return write_blocks(blocks, title, base)


def divergence_notes(diverged: Mapping[str, Collection[int]]) -> list[str]:
    """Return one sentence for each arm of which a run diverged."""
    note = "{0} diverged (a loss was not finite) with {1}: left out of every arm, and no score of {0} shows it."
    return [note.format(arm, listed(seeds)) for arm, seeds in diverged.items() if seeds]


def _configuration_differences(comparison: Comparison) -> Block:
    if not comparison.differences:
        both = f"{comparison.arm_a} and {comparison.arm_b}"
        return f"{both} have the same configuration, apart from seeds and folders."
    rows = [
        [f"`{field}`", *(", ".join(map(str, values)) for values in both)]
        for field, both in comparison.differences.items()
    ]
    return Table(["Field", comparison.arm_a, comparison.arm_b], rows)


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
        for point in comparison.points:
            corrected = f"{comparison.adjusted_p_value:.2g}" if point is comparison.end else ""
            count = f"{num_better(comparison, point)} of {len(point.seeds)}"
            row = [f"{comparison.arm_b} {point.when}", count, change(point.mean_log_ratio)]
            row += [interval_of(point), f"{point.p_value:.2g}", f"{point.smallest_p_value:.2g}"]
            rows.append([*row, corrected] if several else row)
    header = [f"Against {first.arm_a}", "better in", "mean change"]
    header += [f"{100 * (1 - first.end.level):.4g} % interval", "exact p", "smallest p"]
    return Table([*header, "corrected p"] if several else header, rows)


def time_to_score_table(comparisons: Sequence[Comparison]) -> Table:
    """Tabulate the images that every run needed to reach the target; `>` if it never did."""
    first = comparisons[0].images_to_score
    arms = {comparisons[0].arm_a: first.images_a}
    arms |= {comparison.arm_b: comparison.images_to_score.images_b for comparison in comparisons}
    never, num_pairs = f"> {first.total_images:,}", len(first.seeds)
    rows = [
        [f"seed {seed}", *(never if time is None else f"{time:,}" for time in times)]
        for seed, *times in zip(first.seeds, *arms.values(), strict=True)
    ]
    reached = [num_pairs - images.count(None) for images in arms.values()]
    sooner = [each.images_to_score.num_sooner for each in comparisons]
    rows.append(["reached in", *(f"{count} of {num_pairs}" for count in reached)])
    rows.append(["sooner in", "", *(f"{count} of {num_pairs}" for count in sooner)])
    rows.append(["exact p", "", *(f"{each.images_to_score.p_value:.2g}" for each in comparisons)])
    return Table([f"Images to {score(first.target)}", *arms], rows, num_summary=3)


def arms_of(comparisons: Sequence[Comparison]) -> dict[str, Sequence[RecordedRun]]:
    """Return the runs of every arm by its name, the control first."""
    first = comparisons[0]
    return {first.arm_a: first.runs_a, **{each.arm_b: each.runs_b for each in comparisons}}
