"""Paired comparison of two arms over training seeds, and of several arms with one control.

Both runs of a pair share the training seed, so the logarithm of the ratio of their scores is compared.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from nacgen.comparison.options import MAX_PAIRS, check_figures
from nacgen.comparison.statistics import (
    ImagesToScore,
    PairedScores,
    holm,
    images_to_score,
    mean_score,
)
from nacgen.comparison.verdict import LEVEL, Claim
from nacgen.errors import ConfigurationError, NonFiniteError
from nacgen.reporting.recorded_runs import RecordedRun, better, load_run, main_metric, options_of
from nacgen.training.fingerprints import differences as unlike_inputs
from nacgen.training.run_folder import INPUT_PATHS

EARLY_FRACTION = 0.2
SMALLEST = 1e-100  # score of which ratios can be computed and drawn; its inverse is the largest
Runs = Sequence[RecordedRun | str | Path]


@dataclass(frozen=True, kw_only=True)
class Comparison(Claim):
    """The result of `compare`; `early` and `area` are None if there is only one evaluation."""

    metric: str
    runs_a: tuple[RecordedRun, ...]  # by seed
    runs_b: tuple[RecordedRun, ...]
    early: PairedScores | None  # nearest to a fifth of the budget
    area: PairedScores | None  # geometric means over all of training
    images_to_score: ImagesToScore
    differences: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]  # values by field, by arm

    @property
    def points(self) -> list[PairedScores]:
        """Scores that exist of: early, over all of training, at the end."""
        return [point for point in (self.early, self.area, self.end) if point is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return names, verdict, scores and statistics, ready for JSON."""
        names = ("metric", "better", "arm_a", "arm_b", "verdict", "is_claim", "adjusted_p_value")
        endpoints = ("end", "early", "area", "images_to_score")
        return {
            **{name: getattr(self, name) for name in (*names, "num_comparisons")},
            **{name: list(getattr(self, name)) for name in ("diverged_a", "diverged_b")},
            **{k: v and v.to_dict() for k in endpoints for v in [getattr(self, k)]},
        }


def compare(
    runs_a: Runs,
    runs_b: Runs,
    *,
    metric: str | None = None,
    names: tuple[str, str] | None = None,
    target: float | None = None,
    level: float = LEVEL,
    diverged: tuple[Collection[int], Collection[int]] = ((), ()),
) -> Comparison:
    """Compare two arms, paired by training seed: at the end, early, over all of training, and in images.

    Args:
        runs_a: Finished runs of the control, one for each seed, as folders or as `RecordedRun`.
        runs_b: Finished runs of the other arm, with the same seeds.
        metric: Metric to compare. None: FID, a Fréchet distance, or the first metric of the runs.
        names: Names of the arms. None: the weights of their encoders.
        target: Score for which the images needed are counted. None: the geometric mean of the control at the end.
        level: Error rate of claims; a fraction of `1 - level` of intervals contains the true mean.
        diverged: Seeds with which the control and the other arm diverged. Their pairs are left out and reported.
            Nothing is claimed if the better arm diverged.

    Raises:
        ConfigurationError: `level` or `target` is out of range, a run is unfinished or lacks the metric, seeds are
            unpaired, or protocols or budgets differ; the message names the fields and both values.
        CheckpointError: A run folder cannot be read.

    Example:
        >>> folders = {init: sorted(Path("runs").glob(f"{init}-seed*")) for init in ("random", "nac")}
        >>> nacgen.reporting.compare(*folders.values()).verdict  # doctest: +SKIP
        'In all 8 paired seeds nac scored lower (better) than random at the end (-14.2 % on average, ...'
    """
    check_figures(level, target)
    # Pair the runs.
    left_out = {*diverged[0], *diverged[1]}
    both = [_loaded(runs) for runs in (runs_a, runs_b)]
    metric = metric or main_metric([*both[0], *both[1]])
    a, b = (_by_seed(runs, metric, left_out) for runs in both)
    arm_a, arm_b = names or (next(iter(arm.values())).arm for arm in (a, b))
    if arm_a == arm_b:
        raise ConfigurationError(
            f"two arms need two names, but both are called {arm_a} after their init. Pass names."
        )
    if a.keys() != b.keys():
        raise ConfigurationError(
            f"runs are paired by seed, but {arm_a} has seeds {_listed(a)} and {arm_b} has "
            f"{_listed(b)}. Train or leave out {_listed(a.keys() ^ b.keys())}."
        )
    runs, seeds, num_pairs = [*a.values(), *b.values()], tuple(a), len(a)
    end = _common_end(runs, metric)

    # Compare at the positions at which all runs were scored.
    curves = [run.curve(metric) for run in runs]
    common = sorted(set.intersection(*map(set, curves)))
    curves = [{seen: curve[seen] for seen in common} for curve in curves]
    found = [run.protocols(metric) for run in runs]
    protocols = {seen: _common_protocol(runs, [each[seen] for each in found]) for seen in common}

    def paired(when: str, seen: int, scores: Sequence[float]) -> PairedScores:
        return PairedScores(
            when=when,
            images_seen=seen,
            total_images=end,
            seeds=seeds,
            scores_a=tuple(scores[:num_pairs]),
            scores_b=tuple(scores[num_pairs:]),
            protocol=protocols[seen],
            level=level,
        )

    at_end = paired("at the end", end, [curve[end] for curve in curves])
    early = area = None
    if len(common) > 1:
        seen = min(common[:-1], key=lambda seen: abs(seen - EARLY_FRACTION * end))
        early = paired(f"at {100 * seen / end:.0f} %", seen, [curve[seen] for curve in curves])
        area = paired("over all of training", end, [mean_score(curve) for curve in curves])

    # Count the images to the target.
    if target is None:
        target = math.exp(fmean(map(math.log, at_end.scores_a)))
    reached = [images_to_score(curve, target, better(metric)) for curve in curves]
    return Comparison(
        metric=metric,
        better=better(metric),
        arm_a=arm_a,
        arm_b=arm_b,
        runs_a=tuple(a.values()),
        runs_b=tuple(b.values()),
        end=at_end,
        early=early,
        area=area,
        images_to_score=ImagesToScore(
            target=target,
            total_images=end,
            seeds=seeds,
            images_a=tuple(reached[:num_pairs]),
            images_b=tuple(reached[num_pairs:]),
            level=level,
        ),
        differences=_differences(a.values(), b.values()),
        diverged_a=tuple(sorted(diverged[0])),
        diverged_b=tuple(sorted(diverged[1])),
        adjusted_p_value=at_end.p_value,
    )


def compare_arms(
    arms: Mapping[str, Runs],
    *,
    metric: str | None = None,
    target: float | None = None,
    level: float = LEVEL,
    diverged: Mapping[str, Collection[int]] | None = None,
) -> list[Comparison]:
    """Compare several arms with one control over the same seeds, and correct the claims for their number.

    Args:
        arms: Finished runs of every arm by its name, the control first.
        metric: Metric to compare, as in `compare`.
        target: Score for which the images needed are counted, as in `compare`; the same for all arms.
        level: Error rate of all claims together.
        diverged: Seeds with which each arm diverged; they are left out of every arm. An arm that diverged with
            every seed is itself left out.

    Returns:
        One comparison for each arm that is left, in the order of the arms.

    Raises:
        ConfigurationError: There are fewer than two arms, or `compare` refuses the runs.
        NonFiniteError: Too many runs diverged: no pair is left.
        CheckpointError: A run folder cannot be read.

    Example:
        >>> arms = {arm: sorted(Path("runs").glob(f"{arm}-seed*")) for arm in ("random", "nac", "shuffled")}
        >>> [each.is_claim for each in nacgen.reporting.compare_arms(arms)]  # doctest: +SKIP
        [True, False]
    """
    lost = {arm: set((diverged or {}).get(arm, ())) for arm in arms}
    control, *others = arms
    if not others:
        raise ConfigurationError(f"two arms or more are compared, got {', '.join(arms)}. Add one.")
    runs = {arm: _loaded(given) for arm, given in arms.items()}
    others = [arm for arm in others if runs[arm] or not lost[arm]]
    left_out = set[int]().union(*(lost[arm] for arm in (control, *others)))
    kept = (control, *others)
    runs = {arm: [run for run in runs[arm] if run.seed not in left_out] for arm in kept}
    if not others or (left_out and not all(runs.values())):
        seeds = "; ".join(f"{arm}: {_listed(lost[arm])}" for arm in arms if lost[arm])
        raise NonFiniteError(
            "a pair needs a seed with which every arm trains to its end, but none is left: runs "
            f"diverged ({seeds}). Lower a learning rate, or compare other arms or more seeds."
        )
    metric = metric or main_metric([run for each in runs.values() for run in each])
    against = partial(compare, runs[control], metric=metric, target=target, level=level)
    comparisons = [
        against(runs[arm], names=(control, arm), diverged=(lost[control], lost[arm]))
        for arm in others
    ]
    adjusted = holm([comparison.end.p_value for comparison in comparisons])
    return [
        dataclasses.replace(comparison, adjusted_p_value=p, num_comparisons=len(comparisons))
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _loaded(runs: Runs) -> list[RecordedRun]:
    if isinstance(runs, str | Path | RecordedRun):
        raise ConfigurationError(
            f"an arm is a list of runs, got {runs!s:.200} alone. Give [{runs!s:.200}]."
        )
    return [run if isinstance(run, RecordedRun) else load_run(run) for run in runs]


def _by_seed(
    runs: Sequence[RecordedRun], metric: str, left_out: Collection[int]
) -> dict[int, RecordedRun]:
    """Return the runs of one arm by seed; refuse unfinished runs, a seed twice, and scores without a logarithm."""
    runs = [run for run in runs if run.seed not in left_out]
    if not 1 <= len(runs) <= MAX_PAIRS:
        raise ConfigurationError(
            f"an arm has 1 to {MAX_PAIRS} runs, one for each seed, got {len(runs)}. Give all run folders."
        )
    arm: dict[int, RecordedRun] = {}
    made: dict[tuple[str, ...], RecordedRun] = {}  # the first run by paths of its inputs
    for run in sorted(runs, key=lambda run: run.seed):
        if run.summary is None:
            raise ConfigurationError(
                f"only finished runs are compared, but {run.path} has no summary.json. Run its command again."
            )
        if run.seed in arm:
            raise ConfigurationError(
                f"an arm has one run for each seed, but {arm[run.seed].path} and {run.path} both "
                f"have seed {run.seed}. Leave one out."
            )
        for seen, value in run.curve(metric).items():
            if not SMALLEST <= value <= 1 / SMALLEST:
                raise ConfigurationError(
                    f"{metric} must be positive and finite to have a logarithm, but is {value} in {run.path} at "
                    f"{seen:,} images. Compare another metric, or leave the seed out of every arm and report it."
                )
        arm[run.seed] = run
        options = options_of(run.config)
        first = made.setdefault(tuple(str(options.get(name)) for name in INPUT_PATHS), run)
        if run.inputs and (changed := unlike_inputs(first.inputs or run.inputs, run.inputs)):
            raise ConfigurationError(
                f"the runs of an arm are made from the same files, but {first.path} and {run.path} are not "
                f"({'; '.join(changed)}). Train one of them again in a new folder, or leave its seed out."
            )
    return arm


def _common_end(runs: Sequence[RecordedRun], metric: str) -> int:
    """Return the images seen at the end of all runs; refuse unequal budgets and runs not scored at their end."""
    ends = [max(run.curve(metric)) for run in runs]
    for run, end in zip(runs, ends, strict=True):
        assert run.summary is not None
        if end != run.summary["images_seen"]:
            raise ConfigurationError(
                f"the last score must be that of the finished run, but {run.path} was last scored "
                f"at {end:,} of {run.summary['images_seen']:,} images. Train it with a score at the end."
            )
        if end != ends[0]:
            raise ConfigurationError(
                f"arms are compared at one budget, but {runs[0].path} was last scored at "
                f"{ends[0]:,} images and {run.path} at {end:,}. Use the same --total-images."
            )
    return ends[0]


def _common_protocol(
    runs: Sequence[RecordedRun], protocols: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the protocol of the scores of both arms' runs; refuse differences but the seeds of other pairs."""
    num_pairs = len(runs) // 2
    checks = [(0, i, "seed") for i in range(len(runs))]
    checks += [(i, i + num_pairs, "") for i in range(num_pairs)]
    for i, j, left_out in checks:
        p, q = protocols[i], protocols[j]
        unlike = [
            f"{field} ({p.get(field, 'absent')!r} and {q.get(field, 'absent')!r})"
            for field in {**p, **q}
            if field != left_out and p.get(field) != q.get(field)
        ]
        if unlike:
            raise ConfigurationError(
                f"scores are comparable under one protocol only, but those of {runs[i].path} and {runs[j].path} "
                f"differ in {', '.join(unlike)}. Score both in the same way."
            )
    protocol = dict(protocols[0])
    if len({each.get("seed") for each in protocols[:num_pairs]}) > 1:
        protocol["seed"] = "one for each pair"
    return protocol


def _differences(
    runs_a: Iterable[RecordedRun], runs_b: Iterable[RecordedRun]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the configuration fields in which any two runs differ, with the values found in each arm."""
    a, b = ([options_of(run.config) for run in runs] for runs in (runs_a, runs_b))

    def values(configs: Sequence[Mapping[str, Any]], field: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(config.get(field, "absent")) for config in configs))

    fields = dict.fromkeys(field for config in [*a, *b] for field in config)
    return {
        field: (values(a, field), values(b, field))
        for field in fields
        if field not in ("seed", "run_dir") and len(values([*a, *b], field)) > 1
    }


def _listed(seeds: Collection[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
