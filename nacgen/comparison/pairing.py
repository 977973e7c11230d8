"""Conditions under which runs may be compared: one run for each seed, one budget, one protocol."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from nacgen.comparison.statistics import MAX_PAIRS
from nacgen.errors import ConfigurationError
from nacgen.reporting.runs import Run, options_of


def by_seed(runs: Sequence[Run], metric: str, left_out: Collection[int]) -> dict[int, Run]:
    """Return the runs of one arm by seed; refuse unfinished runs, a seed twice, and scores without a logarithm."""
    runs = [run for run in runs if run.seed not in left_out]
    if not 1 <= len(runs) <= MAX_PAIRS:
        raise ConfigurationError(
            f"an arm has 1 to {MAX_PAIRS} runs, one for each seed, got {len(runs)}. Give all run folders."
        )
    arm: dict[int, Run] = {}
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
            if not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(
                    f"{metric} must be positive and finite to have a logarithm, but is {value} in {run.path} at "
                    f"{seen:,} images. Compare another metric, or leave the seed out of every arm and report it."
                )
        arm[run.seed] = run
    return arm


def common_end(runs: Sequence[Run], metric: str) -> int:
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


def common_protocol(
    a: Mapping[int, Run], b: Mapping[int, Run], metric: str, seen: int
) -> dict[str, Any]:
    """Return the protocol of all scores at a position; refuse any difference but the seeds of other pairs."""
    first = next(iter(a.values()))
    checks = [(first, run, "seed") for run in [*a.values(), *b.values()]]
    checks += [(a[seed], b[seed], "") for seed in a]
    for one, other, left_out in checks:
        p, q = one.protocol(metric, seen), other.protocol(metric, seen)
        unlike = [
            f"{field} ({p.get(field, 'absent')!r} and {q.get(field, 'absent')!r})"
            for field in {**p, **q}
            if field != left_out and p.get(field) != q.get(field)
        ]
        if unlike:
            raise ConfigurationError(
                f"scores are comparable under one protocol only, but those of {one.path} and {other.path} "
                f"differ in {', '.join(unlike)}. Score both in the same way."
            )
    several_seeds = len({run.protocol(metric, seen).get("seed") for run in a.values()}) > 1
    return {
        **first.protocol(metric, seen),
        **({"seed": "one for each pair"} if several_seeds else {}),
    }


def differences(
    runs_a: Iterable[Run], runs_b: Iterable[Run]
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
