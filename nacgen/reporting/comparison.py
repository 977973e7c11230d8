"""Paired comparison of two arms over training seeds.

The training seed is the unit of replication: both arms of a pair share data order, latents and the
generator's start, so what is compared is the logarithm of the ratio of their scores. The statistics
are in `paired.py`, the words in `verdict.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nacgen.errors import ConfigurationError
from nacgen.reporting.paired import (
    MAX_PAIRS,
    sign_flip_p_value,
    smallest_p_value,
    t_interval,
)
from nacgen.reporting.runs import Run, better, load_run
from nacgen.reporting.verdict import verdict
from nacgen.training.config import flatten

EARLY_FRACTION = 0.2
DEFAULT_METRIC = "fd_digits_classifier"


@dataclass(frozen=True, kw_only=True)
class PairedScores:
    """The scores of two arms, pair by pair, at one moment of training.

    Args:
        images_seen: Images seen by every run at that moment.
        total_images: The whole budget.
        seeds: The pairs, in the order of the scores.
        scores_a: Scores of the first arm, the control.
        scores_b: Scores of the second.
        protocol: How all of them were measured.
    """

    images_seen: int
    total_images: int
    seeds: tuple[int, ...]
    scores_a: tuple[float, ...]
    scores_b: tuple[float, ...]
    protocol: Mapping[str, Any]

    @property
    def fraction(self) -> float:
        """Share of the budget spent, 0 to 1."""
        return self.images_seen / self.total_images

    @property
    def log_ratios(self) -> tuple[float, ...]:
        """`log(b / a)` of each pair; negative where the second arm scored lower."""
        return tuple(math.log(b / a) for a, b in zip(self.scores_a, self.scores_b, strict=True))

    @property
    def mean_log_ratio(self) -> float:
        """Mean of `log_ratios`."""
        return fmean(self.log_ratios)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % t-interval of the mean log ratio, or None for a single pair."""
        return t_interval(self.log_ratios)

    @property
    def p_value(self) -> float:
        """Exact two-sided sign-flip p-value."""
        return sign_flip_p_value(self.log_ratios)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value that this number of pairs can give."""
        return smallest_p_value(len(self.seeds))

    @property
    def num_lower(self) -> int:
        """Pairs in which the second arm scored lower."""
        return sum(ratio < 0 for ratio in self.log_ratios)

    @property
    def num_higher(self) -> int:
        """Pairs in which the second arm scored higher."""
        return sum(ratio > 0 for ratio in self.log_ratios)

    def to_dict(self) -> dict[str, Any]:
        """Scores and statistics, fit for JSON."""
        return {
            "images_seen": self.images_seen,
            "total_images": self.total_images,
            "seeds": list(self.seeds),
            "scores_a": list(self.scores_a),
            "scores_b": list(self.scores_b),
            "log_ratios": list(self.log_ratios),
            "mean_log_ratio": self.mean_log_ratio,
            "interval": None if self.interval is None else list(self.interval),
            "p_value": self.p_value,
            "smallest_p_value": self.smallest_p_value,
            "num_lower": self.num_lower,
            "num_higher": self.num_higher,
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found.

    Args:
        metric: The metric compared.
        arm_a: Name of the control.
        arm_b: Name of the arm compared with it.
        runs_a: Runs of the control, by seed.
        runs_b: Runs of the other arm, by seed.
        end: Scores at the end of training.
        early: Scores nearest to a fifth of the budget, or None where none precedes the end.
        differences: Configuration fields that differ between runs, with the values met in each arm.
    """

    metric: str
    arm_a: str
    arm_b: str
    runs_a: tuple[Run, ...]
    runs_b: tuple[Run, ...]
    end: PairedScores
    early: PairedScores | None
    differences: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]

    @property
    def verdict(self) -> str:
        """One sentence on the scores at the end."""
        return self.verdict_at(self.end)

    def verdict_at(self, point: PairedScores) -> str:
        """One sentence on the scores at one moment of training."""
        when = "at the end" if point is self.end else f"at {point.fraction:.0%} of the budget"
        return verdict(
            self.arm_a,
            self.arm_b,
            point.log_ratios,
            when=when.replace("%", " %"),
            better=better(self.metric),
        )

    def to_dict(self) -> dict[str, Any]:
        """Names, verdict, scores and statistics, fit for JSON."""
        return {
            "metric": self.metric,
            "arm_a": self.arm_a,
            "arm_b": self.arm_b,
            "verdict": self.verdict,
            "end": self.end.to_dict(),
            "early": None if self.early is None else self.early.to_dict(),
        }


def compare(
    runs_a: Sequence[Run | str | Path],
    runs_b: Sequence[Run | str | Path],
    *,
    metric: str = DEFAULT_METRIC,
    names: tuple[str, str] | None = None,
) -> Comparison:
    """Compare two arms, paired by training seed, at the end and at a fifth of the budget.

    Args:
        runs_a: Finished runs of the control, one for each seed, as folders or as `Run`.
        runs_b: Finished runs of the other arm, with the same seeds.
        metric: The score compared.
        names: What to call the arms. Absent: what their encoders were initialised with.

    Returns:
        Every score, the statistics and the verdict.

    Raises:
        ConfigurationError: A run is unfinished or lacks the metric, seeds are unpaired, or
            protocols or budgets differ; the message names the fields and both values.
        CheckpointError: A run folder cannot be read.
    """
    a, b = (
        _by_seed([run if isinstance(run, Run) else load_run(run) for run in runs], metric)
        for runs in (runs_a, runs_b)
    )
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
    before = set.intersection(*map(set, curves)) - {end}
    early = min(sorted(before), key=lambda seen: abs(seen - EARLY_FRACTION * end), default=None)

    def scores_at(seen: int) -> PairedScores:
        values = [curve[seen] for curve in curves]
        return PairedScores(
            images_seen=seen,
            total_images=end,
            seeds=tuple(a),
            scores_a=tuple(values[: len(a)]),
            scores_b=tuple(values[len(a) :]),
            protocol=_common_protocol(a, b, metric, seen),
        )

    return Comparison(
        metric=metric,
        arm_a=arm_a,
        arm_b=arm_b,
        runs_a=tuple(a.values()),
        runs_b=tuple(b.values()),
        end=scores_at(end),
        early=None if early is None else scores_at(early),
        differences=_differences(tuple(a.values()), tuple(b.values())),
    )


def _by_seed(runs: Sequence[Run], metric: str) -> dict[int, Run]:
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
