"""Comparing arms from Python: runs that are finished, or arms that are trained as by `nacgen compare`."""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nacgen.api.options import configure, encoder_option, recipe_of
from nacgen.api.results import TrainedRun
from nacgen.comparison.comparison_report import write_comparison_report
from nacgen.comparison.paired_comparison import compare_arms
from nacgen.comparison.tables import ComparisonResult
from nacgen.errors import ConfigurationError
from nacgen.system.files import storage_errors


def compare(
    arms: Mapping[str, Sequence[TrainedRun | str | Path]] | Sequence[str] | None = None,
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
        ConfigurationError: An option cannot be used, or the runs cannot be compared; the message says why.
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
        runs = {name: list(map(_path, each)) for name, each in arms.items()}
        comparisons = compare_arms(runs, diverged=diverged, **figures)
        reports: tuple[Path, ...] = ()
        if run_dir is not None:
            with storage_errors(f"the folder {run_dir}", "Choose another run_dir."):
                Path(run_dir).mkdir(parents=True, exist_ok=True)
            reports = write_comparison_report(comparisons, run_dir, diverged)
        return ComparisonResult(tuple(comparisons), reports)
    if diverged is not None:
        raise ConfigurationError("diverged belongs to finished runs, got it with arms to train.")
    given: dict[str, Any] = {"arms": arms and list(arms), "run_dir": run_dir, **figures}
    if encoder is not None:
        given["encoder"] = encoder_option(encoder, run_dir)
    options |= {name: value for name, value in given.items() if value is not None}
    config = configure("compare", options.pop("preset", None), options)
    config.check_inputs()
    with contextlib.redirect_stdout(io.StringIO()):
        result: ComparisonResult = recipe_of("compare").main(config)
    return result


def _path(run: TrainedRun | str | Path) -> Path:
    return run.path if isinstance(run, TrainedRun) else Path(run)
