"""Comparing arms from Python: runs that are finished, or arms that are trained as by `nacgen compare`."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nacgen.api.calling import as_function
from nacgen.api.options import configure, encoder_option, options_of, recipe_of
from nacgen.api.results import TrainedRun
from nacgen.api.spelling import as_arguments
from nacgen.comparison.comparison_report import write_comparison_report
from nacgen.comparison.paired_comparison import compare_arms
from nacgen.comparison.tables import ComparisonResult
from nacgen.errors import ConfigurationError
from nacgen.system.calls import public
from nacgen.system.files import storage_errors


@public
@as_function(lambda text: as_arguments(text, options_of("compare")))
def compare(
    arms: Mapping[str, Sequence[TrainedRun | str | Path] | TrainedRun | str | Path]
    | Sequence[str]
    | None = None,
    *,
    metric: str | None = None,
    target: float | None = None,
    level: float = 0.05,
    diverged: Mapping[str, Collection[int]] | None = None,
    run_dir: str | Path | None = None,
    encoder: Any = None,
    **options: Any,
) -> ComparisonResult:
    r"""Compare arms paired by seed, the first of which is the control: finished runs, or arms to be trained.

    Args:
        arms: Finished runs of each arm by its name, one for each seed: as `train_gan` returns them, or their
            folders. Or arms as `nacgen compare --arms` takes them, which are trained in processes of their own.
        metric: Score to compare. None: FID, a Fréchet distance, or the first score of the runs.
        target: Score for which the images needed are counted. None: the mean of the control at the end.
        level: Error rate of all claims together.
        diverged: Of finished runs: seeds with which each arm diverged.
        run_dir: Folder for the report and the tables, and for the runs that are trained. None: finished runs are
            compared without a report.
        encoder: Encoder of every arm that is trained: a `NACEncoder`, a folder or a Hub id.
        options: Options of `nacgen compare`, for arms to be trained.

    Returns:
        The comparison: verdicts, and tables by `to_markdown`, `to_latex` and `to_csv`.

    Raises:
        ConfigurationError: An option cannot be used, the runs cannot be compared, or arms are to be trained on
            another rank of a launcher than 0; the message says why.
        NonFiniteError: Too many runs diverged: no pair is left.

    Example:
        >>> arms = {}
        >>> for init in ("random", "nac"):
        ...     folder = f"runs/example-{init}"
        ...     arms[init] = [nacgen.train_gan(preset="smoke", init=init, run_dir=folder)]
        >>> comparison = nacgen.compare(arms)
        >>> print(comparison.to_latex().splitlines()[0])
        \begin{tabular}{lrrrrr}
    """
    figures: dict[str, Any] = {"metric": metric, "target": target, "level": level}
    if isinstance(arms, Mapping):
        if options or encoder is not None:
            names = ", ".join([*options, *(["encoder"] if encoder is not None else [])])
            raise ConfigurationError(
                f"options of training belong to arms that are trained, got {names} with finished runs. Leave them "
                "out, or give the names of arms."
            )
        runs = {name: _paths(name, each) for name, each in arms.items()}
        if len(runs) < 2:
            raise ConfigurationError(
                f"a comparison takes the runs of two arms or more, got {len(runs)}. Give them by name, as in "
                '{"random": runs, "nac": runs}; the first is the control.'
            )
        comparisons = compare_arms(runs, diverged=diverged, **figures)
        reports: tuple[Path, ...] = ()
        if run_dir is not None:
            with storage_errors(f"the folder {run_dir}", "Choose another run_dir."):
                Path(run_dir).mkdir(parents=True, exist_ok=True)
            reports = write_comparison_report(comparisons, run_dir, diverged)
        return ComparisonResult(tuple(comparisons), reports)
    if isinstance(arms, str):
        raise ConfigurationError(
            f"arms to be trained are a list, as in ['random', 'nac'], got {arms!r}. Put it into one."
        )
    if (rank := os.environ.get("RANK", "0")) != "0":
        raise ConfigurationError(
            f"nacgen.compare starts the processes that train by itself, but a launcher started this one as rank "
            f"{rank}. Call it on rank 0 alone, or start the program without a launcher."
        )
    if diverged is not None:
        raise ConfigurationError("diverged belongs to finished runs, got it with arms to train.")
    given: dict[str, Any] = {"arms": arms and list(arms), "run_dir": run_dir, **figures}
    if encoder is not None:
        given["encoder"] = encoder_option(encoder, run_dir)
    options |= {name: value for name, value in given.items() if value is not None}
    config = configure("compare", options.pop("preset", None), options, compare)
    config.check_inputs()
    result: ComparisonResult = recipe_of("compare").main(config)
    return result


def _paths(name: str, runs: object) -> list[Path]:
    """Return the folders of an arm's runs, of which one may stand without a list."""
    each = [runs] if isinstance(runs, TrainedRun | str | Path) else runs
    if not isinstance(each, Iterable):
        raise ConfigurationError(
            f"an arm is a list of its finished runs or their folders, got {runs!r:.100} for {name}. Give one for "
            "each seed."
        )
    return [run.path if isinstance(run, TrainedRun) else Path(run) for run in each]
