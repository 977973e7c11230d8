"""Paired comparison of two arms over training seeds, and of several arms with one control.

The training seed is the unit of replication: both arms of a pair share data order, latents and the
generator's start, so what is compared is the logarithm of the ratio of their scores. What is read off the
runs is in `endpoints.py`, the statistics in `paired.py`, the words in `verdict.py`.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nacgen.comparison.endpoints import ImagesToScore, PairedScores, images_to_score, mean_score
from nacgen.comparison.paired import MAX_PAIRS, holm
from nacgen.comparison.verdict import LEVEL, Evidence, verdict
from nacgen.errors import ConfigurationError, NonFiniteError
from nacgen.reporting.runs import Run, better, load_run, main_metric
from nacgen.system.documents import flatten

EARLY_FRACTION = 0.2
Runs = Sequence[Run | str | Path]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found.

    Args:
        metric: The metric compared.
        arm_a: Name of the control.
        arm_b: Name of the arm compared with it.
        runs_a: Runs of the control, by seed.
        runs_b: Runs of the other arm, by seed.
        end: Scores at the end of training; the verdict rests on them alone.
        early: Scores nearest to a fifth of the budget, or None where none precedes the end.
        area: Geometric means over all of training, or None where there is one evaluation only.
        images_to_score: How long both arms took to the target.
        differences: Configuration fields that differ between runs, with the values met in each arm.
        diverged_a: Seeds left out because the control diverged.
        diverged_b: Seeds left out because the other arm diverged.
        num_comparisons: How many arms are compared with the control, this one included.
        adjusted_p_value: The exact p-value at the end, corrected for them after Holm.
    """

    metric: str
    arm_a: str
    arm_b: str
    runs_a: tuple[Run, ...]
    runs_b: tuple[Run, ...]
    end: PairedScores
    early: PairedScores | None
    area: PairedScores | None
    images_to_score: ImagesToScore
    differences: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    diverged_a: tuple[int, ...] = ()
    diverged_b: tuple[int, ...] = ()
    num_comparisons: int = 1
    adjusted_p_value: float

    @property
    def points(self) -> list[PairedScores]:
        """The scores compared: early, over all of training, at the end; those that there are."""
        return [point for point in (self.early, self.area, self.end) if point is not None]

    @property
    def evidence(self) -> Evidence:
        """What may be claimed from the scores at the end."""
        return Evidence(
            log_ratios=self.end.log_ratios,
            level=self.end.level,
            num_comparisons=self.num_comparisons,
            adjusted_p_value=self.adjusted_p_value,
            diverged_a=self.diverged_a,
            diverged_b=self.diverged_b,
        )

    @property
    def is_claim(self) -> bool:
        """Whether the scores at the end show a difference."""
        return self.evidence.is_claim(better(self.metric))

    @property
    def verdict(self) -> str:
        """One sentence on the scores at the end."""
        return verdict(self.arm_a, self.arm_b, self.evidence, better=better(self.metric))

    def to_dict(self) -> dict[str, Any]:
        """Names, verdict, scores and statistics, fit for JSON."""
        return {
            "metric": self.metric,
            "better": better(self.metric),
            "arm_a": self.arm_a,
            "arm_b": self.arm_b,
            "verdict": self.verdict,
            "is_claim": self.is_claim,
            "adjusted_p_value": self.adjusted_p_value,
            "num_comparisons": self.num_comparisons,
            "diverged_a": list(self.diverged_a),
            "diverged_b": list(self.diverged_b),
            "end": self.end.to_dict(),
            "early": None if self.early is None else self.early.to_dict(),
            "area": None if self.area is None else self.area.to_dict(),
            "images_to_score": self.images_to_score.to_dict(),
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
    """Compare two arms, paired by training seed: at the end, early, over all of training, and when.

    Args:
        runs_a: Finished runs of the control, one for each seed, as folders or as `Run`.
        runs_b: Finished runs of the other arm, with the same seeds.
        metric: The score compared. Absent: FID, a Fréchet distance, or the runs' first.
        names: What to call the arms. Absent: what their encoders were initialised with.
        target: Score whose first reaching is timed. Absent: the control's geometric mean at the end.
        level: A claim may be wrong this often; intervals hold the true mean in `1 - level` of comparisons.
        diverged: Seeds with which the control, and the other arm, diverged. Pairs with these seeds are left
            out and reported, and where the better arm diverged nothing is claimed.

    Returns:
        Every score, the statistics and the verdict.

    Raises:
        ConfigurationError: `level` or `target` is out of range, a run is unfinished or lacks the metric, seeds are
            unpaired, or protocols or budgets differ; the message names the fields and both values.
        CheckpointError: A run folder cannot be read.
    """
    if not 0 < level < 1:
        raise ConfigurationError(f"level must lie between 0 and 1, got {level}. Use 0.05.")
    if target is not None and not (target > 0 and math.isfinite(target)):
        raise ConfigurationError(
            f"target must be a score, positive and finite, got {target}. Leave it out for the control's mean."
        )
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
    runs = [*a.values(), *b.values()]
    curves = [run.curve(metric) for run in runs]
    end = _common_end(runs, [max(curve) for curve in curves])
    common = sorted(set.intersection(*map(set, curves)))
    early = min(common[:-1], key=lambda seen: abs(seen - EARLY_FRACTION * end), default=None)
    protocols = {seen: _common_protocol(a, b, metric, seen) for seen in common}

    def paired(when: str, seen: int, values: Sequence[float]) -> PairedScores:
        return PairedScores(
            when=when,
            images_seen=seen,
            total_images=end,
            seeds=tuple(a),
            scores_a=tuple(values[: len(a)]),
            scores_b=tuple(values[len(a) :]),
            protocol=protocols[seen],
            level=level,
        )

    def scores_at(when: str, seen: int) -> PairedScores:
        return paired(when, seen, [curve[seen] for curve in curves])

    shared = [{seen: curve[seen] for seen in common} for curve in curves]  # one grid, so fair
    at_end = scores_at("at the end", end)
    area = None
    if len(common) > 1:
        area = paired("over all of training", end, [mean_score(curve) for curve in shared])
    if target is None:
        target = math.exp(fmean(map(math.log, at_end.scores_a)))
    reached = [images_to_score(curve, target, better(metric)) for curve in shared]
    return Comparison(
        metric=metric,
        arm_a=arm_a,
        arm_b=arm_b,
        runs_a=tuple(a.values()),
        runs_b=tuple(b.values()),
        end=at_end,
        early=None if early is None else scores_at(f"at {100 * early / end:.0f} %", early),
        area=area,
        images_to_score=ImagesToScore(
            target=target,
            total_images=end,
            seeds=tuple(a),
            images_a=tuple(reached[: len(a)]),
            images_b=tuple(reached[len(a) :]),
            level=level,
        ),
        differences=_differences(tuple(a.values()), tuple(b.values())),
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
    """Compare several arms with one control, over the same seeds, and correct the claims for their number.

    Args:
        arms: Finished runs of every arm by its name, the control first.
        metric: As in `compare`.
        target: As in `compare`; one for all arms.
        level: As in `compare`, for all claims together.
        diverged: For each arm the seeds with which it diverged; they are left out of every arm. An arm that
            diverged with every seed is itself left out.

    Returns:
        One comparison for each arm that is left, in the order of the arms.

    Raises:
        ConfigurationError: As in `compare`, or there are fewer than two arms.
        NonFiniteError: Too many runs diverged: no pair is left.
        CheckpointError: A run folder cannot be read.
    """
    fell = {arm: set((diverged or {}).get(arm, ())) for arm in arms}
    control, *others = arms
    if not others:
        raise ConfigurationError(f"two arms or more are compared, got {', '.join(arms)}. Add one.")
    runs = {arm: _loaded(given) for arm, given in arms.items()}
    others = [arm for arm in others if runs[arm] or not fell[arm]]
    left_out = set[int]().union(*(fell[arm] for arm in (control, *others)))
    runs = {
        arm: [run for run in runs[arm] if run.seed not in left_out] for arm in (control, *others)
    }
    if not others or (left_out and not all(runs.values())):
        seeds = "; ".join(f"{arm}: {_listed(fell[arm])}" for arm in arms if fell[arm])
        raise NonFiniteError(
            f"a pair needs a seed with which every arm trains to its end, but none is left: runs "
            f"diverged ({seeds}). Lower a learning rate, or compare other arms or more seeds."
        )
    metric = metric or main_metric([run for each in runs.values() for run in each])
    comparisons = [
        compare(
            runs[control],
            runs[arm],
            metric=metric,
            names=(control, arm),
            target=target,
            level=level,
            diverged=(fell[control], fell[arm]),
        )
        for arm in others
    ]
    adjusted = holm([comparison.end.p_value for comparison in comparisons])
    return [
        dataclasses.replace(comparison, adjusted_p_value=p, num_comparisons=len(comparisons))
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def _loaded(runs: Runs) -> list[Run]:
    return [run if isinstance(run, Run) else load_run(run) for run in runs]


def _by_seed(runs: Sequence[Run], metric: str, left_out: Collection[int]) -> dict[int, Run]:
    runs = [run for run in runs if run.seed not in left_out]
    if not 1 <= len(runs) <= MAX_PAIRS:
        raise ConfigurationError(
            f"an arm has 1 to {MAX_PAIRS} runs, one for each seed, got {len(runs)}. Give every "
            "run folder of both arms."
        )
    arm: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.summary is None:
            raise ConfigurationError(
                f"only finished runs are compared, but {run.path} has no summary.json. Run its "
                "command again: it resumes."
            )
        if run.seed in arm:
            raise ConfigurationError(
                f"an arm has one run for each seed, but {arm[run.seed].path} and {run.path} both "
                f"have seed {run.seed}. Leave one out."
            )
        for seen, value in run.curve(metric).items():
            if not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(
                    f"{metric} must be positive and finite to have a logarithm, but is {value} in "
                    f"{run.path} at {seen:,} images. Compare another metric, or leave the seed out "
                    "of every arm and say so."
                )
        arm[run.seed] = run
    return arm


def _common_end(runs: Sequence[Run], ends: Sequence[int]) -> int:
    for run, end in zip(runs, ends, strict=True):
        assert run.summary is not None
        if end != run.summary["images_seen"]:
            raise ConfigurationError(
                f"the last score must be that of the finished run, but {run.path} was last scored "
                f"at {end:,} of {run.summary['images_seen']:,} images. Train it with a score at "
                "the end."
            )
        if end != ends[0]:
            raise ConfigurationError(
                f"arms are compared at one budget, but {runs[0].path} was last scored at "
                f"{ends[0]:,} images and {run.path} at {end:,}. Train both with the same "
                "--total-images."
            )
    return ends[0]


def _common_protocol(
    a: Mapping[int, Run], b: Mapping[int, Run], metric: str, seen: int
) -> dict[str, Any]:
    """The protocol shared by all scores; the evaluation's own seed may change from pair to pair."""
    first = next(iter(a.values()))
    shared = dict(first.protocol(metric, seen))
    for run in [*a.values(), *b.values()]:
        _require_equal(first, run, shared, run.protocol(metric, seen), leave_out={"seed"})
    for seed in a:
        protocols = a[seed].protocol(metric, seen), b[seed].protocol(metric, seen)
        _require_equal(a[seed], b[seed], *protocols, leave_out=set())
    if len({run.protocol(metric, seen).get("seed") for run in a.values()}) > 1:
        shared["seed"] = "one for each pair"
    return shared


def _require_equal(
    run_a: Run,
    run_b: Run,
    protocol_a: Mapping[str, Any],
    protocol_b: Mapping[str, Any],
    leave_out: set[str],
) -> None:
    unlike = [
        f"{field} ({protocol_a.get(field, 'absent')!r} and {protocol_b.get(field, 'absent')!r})"
        for field in {**protocol_a, **protocol_b}
        if field not in leave_out and protocol_a.get(field) != protocol_b.get(field)
    ]
    if unlike:
        raise ConfigurationError(
            f"scores are comparable under one protocol only, but those of {run_a.path} and "
            f"{run_b.path} differ in {', '.join(unlike)}. Score both in the same way."
        )


def _differences(
    runs_a: Sequence[Run], runs_b: Sequence[Run]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Fields in which any two runs differ, seed and folder aside, with each arm's values."""
    flat_a, flat_b = ([flatten(run.config) for run in runs] for runs in (runs_a, runs_b))

    def met(configs: Sequence[Mapping[str, Any]], field: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(str(config.get(field, "absent")) for config in configs))

    fields = dict.fromkeys(field for config in [*flat_a, *flat_b] for field in config)
    return {
        field: (met(flat_a, field), met(flat_b, field))
        for field in fields
        if field not in ("seed", "run_dir") and len({*met(flat_a, field), *met(flat_b, field)}) > 1
    }


def _listed(seeds: Any) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))
