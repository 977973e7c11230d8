"""The report of a comparison: verdict, curves, forest plot, every seed, samples, cost and protocol."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nacgen.comparison.compare import Comparison
from nacgen.comparison.compute import COST_NOTE, cost_table, pretraining_note
from nacgen.comparison.forest import forest_plot
from nacgen.comparison.tables import arms_of, difference_table, seed_table, time_to_score_table
from nacgen.comparison.verdict import limits, listed
from nacgen.errors import ConfigurationError
from nacgen.reporting.blocks import Block, Images, Table
from nacgen.reporting.charts import comparison_chart, score
from nacgen.reporting.document import Reports, bias_note, mapping_table, samples, write_blocks
from nacgen.reporting.runs import warnings_of


def write_comparison_report(
    comparisons: Sequence[Comparison],
    run_dir: str | Path,
    diverged: Mapping[str, Collection[int]] | None = None,
) -> Reports:
    """Write `report.md`, `report.html`, `curve.png` and `forest.png` of a comparison.

    Args:
        comparisons: Result of `compare_arms`, or one result of `compare` in a list.
        run_dir: Existing folder to write into; run folders may lie below it.
        diverged: Seeds with which each arm diverged, arms that were left out included.

    Returns:
        Paths of the Markdown and the HTML file.

    Raises:
        ConfigurationError: Several comparisons were not corrected for their number.
        StorageError: The folder cannot be written.
    """
    base, first = Path(run_dir), comparisons[0]
    if any(comparison.num_comparisons != len(comparisons) for comparison in comparisons):
        raise ConfigurationError(
            f"the claims of {len(comparisons)} comparisons must be corrected for their number, but these are "
            f"for {first.num_comparisons}. Make all of them in one call of compare_arms."
        )
    arms = arms_of(comparisons)
    pairs, metric = len(first.end.seeds), first.metric
    others = " and ".join(comparison.arm_b for comparison in comparisons)
    title = f"{others} against {first.arm_a}: {metric}, {_paired_seeds(pairs)}"
    curves = comparison_chart(arms, metric, base / "curve.png", title=_finding(comparisons))
    forest = forest_plot(comparisons, base / "forest.png")
    moments = [point.images_seen for point in (first.early, first.end) if point is not None]
    blocks: list[Block] = [f"# {title}"]
    blocks += [f"> {comparison.verdict}" for comparison in comparisons]
    blocks += divergence_notes(diverged or _diverged(comparisons))
    blocks += [
        Images([curves], [f"`{metric}` against images seen, {listed(first.end.seeds)}"], "chart"),
        Images([forest], ["Mean changes, their intervals, and every pair"], "chart"),
        "## Every seed",
        *map(seed_table, comparisons),
        "## Paired differences",
        difference_table(comparisons),
        _METHOD,
        limits(pairs, first.end.level, len(comparisons)),
    ]
    if len(comparisons) > 1:
        blocks += [_CORRECTION.format(len(comparisons))]
    blocks += ["## Images to a score", time_to_score_table(comparisons), _time_note(first)]
    blocks += samples({arm: runs[0] for arm, runs in arms.items()}, moments)
    blocks += ["## Time and compute", cost_table(arms), pretraining_note(arms), COST_NOTE]
    blocks += ["## Protocol of the scores", mapping_table("Field", first.end.protocol)]
    blocks += [bias_note([run for runs in arms.values() for run in runs], metric)]
    blocks += warnings_of(arms.values())
    blocks += ["## Differences between the arms", *map(_configuration_differences, comparisons)]
    return write_blocks(blocks, title, base)


def divergence_notes(diverged: Mapping[str, Collection[int]]) -> list[str]:
    """Return one sentence for each arm of which a run diverged."""
    return [
        f"{arm} diverged (a loss was not finite) with {listed(seeds)}: left out of every arm, and no score of "
        f"{arm} shows it."
        for arm, seeds in diverged.items()
        if seeds
    ]


def _diverged(comparisons: Sequence[Comparison]) -> dict[str, Collection[int]]:
    first = comparisons[0]
    return {first.arm_a: first.diverged_a, **{each.arm_b: each.diverged_b for each in comparisons}}


_METHOD = (
    "A change is the score of an arm relative to the control's score with the same seed. Mean and interval "
    "are those of the logarithm of that ratio (Student's t). The exact test flips the signs of the "
    "logarithms in every way; smallest p is the lowest p that this number of pairs can give. Over all of "
    "training, the score of a run is its geometric mean over the images seen. "
    "The verdict depends only on the scores at the end; the other rows describe."
)

_CORRECTION = (
    "Corrected p is the exact p at the end after Holm, for {} comparisons with one control: the error rate holds "
    "for all claims together. Intervals are those of each comparison alone."
)


def _time_note(comparison: Comparison) -> str:
    time = comparison.images_to_score
    return (
        f"Images at the first evaluation with a score of {score(time.target)} or {comparison.better}. "
        f"A run that did not reach it within {time.total_images:,} images is censored: it counts as later than "
        "all others and enters no mean. The test is the exact sign test, which needs only the order "
        "within each pair."
    )


def _finding(comparisons: Sequence[Comparison]) -> str:
    """Return the title of the chart: the number of pairs in which each arm is better."""
    side = comparisons[0].better
    counts = [
        f"{each.arm_b} in {each.end.num_lower if side == 'lower' else each.end.num_higher}"
        for each in comparisons
    ]
    pairs = _paired_seeds(len(comparisons[0].end.seeds))
    return f"{side.capitalize()} than {comparisons[0].arm_a} at the end: {', '.join(counts)} of {pairs}"


def _paired_seeds(pairs: int) -> str:
    return f"{pairs} paired seed{'s' if pairs > 1 else ''}"


def _configuration_differences(comparison: Comparison) -> Block:
    if not comparison.differences:
        same = f"{comparison.arm_a} and {comparison.arm_b} have the same configuration"
        return f"{same}, apart from seeds and folders."
    rows = [
        [f"`{field}`", *(", ".join(map(str, values)) for values in both)]
        for field, both in comparison.differences.items()
    ]
    return Table(["Field", comparison.arm_a, comparison.arm_b], rows)
