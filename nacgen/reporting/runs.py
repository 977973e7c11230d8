"""Read run folders: what was configured, every score on the way, and how the run ended."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.metrics.result import is_higher_better, rename_old_keys


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores at one moment of a run, with their protocol.

    Args:
        images_seen: Training images seen by then.
        scores: For each metric its `value`, and what is known of `raw`, `bias` and `spread`.
        protocol: Everything that has to be equal for two scores to be comparable.
        warnings: What the evaluation complained of.
    """

    images_seen: int
    scores: Mapping[str, Mapping[str, Any]]
    protocol: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder, read.

    Args:
        path: The folder.
        config: Resolved configuration, as in `config.yaml`.
        environment: Machine and versions, as in `environment.json`; empty where there is none.
        evaluations: Every evaluation, in the order of images seen.
        summary: What the run printed last, or None while it is unfinished.
    """

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    evaluations: tuple[Evaluation, ...]
    summary: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def seed(self) -> int:
        """Training seed."""
        return int(self.config["seed"])

    @property
    def arm(self) -> str:
        """What the encoder's weights were initialised with, `"nac"` or `"random"` say."""
        return str(self.config.get("init", "run"))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that were evaluated."""
        return sorted({name for evaluation in self.evaluations for name in evaluation.scores})

    def curve(self, metric: str) -> dict[int, float]:
        """The score at every evaluation, by images seen.

        Args:
            metric: A metric's name.

        Returns:
            The scores; at least one.

        Raises:
            ConfigurationError: The run has no such metric.
        """
        if metric not in self.metrics:
            raise ConfigurationError(
                f"expected scores of {metric} in {self.path}, which has "
                f"{', '.join(self.metrics) or 'no scores'}. Name one of those as the metric, or "
                "train with that score."
            )
        return {
            evaluation.images_seen: evaluation.scores[metric]["value"]
            for evaluation in self.evaluations
            if metric in evaluation.scores
        }

    def protocol(self, metric: str, images_seen: int) -> Mapping[str, Any]:
        """The protocol of the score at a position of `curve`, with the settings that are its own."""
        evaluation = next(
            evaluation
            for evaluation in self.evaluations
            if evaluation.images_seen == images_seen and metric in evaluation.scores
        )
        settings = rename_old_keys(evaluation.scores[metric].get("settings", {}))
        return {**evaluation.protocol, **{f"{metric}.{name}": settings[name] for name in settings}}

    def sample_grid(self, images_seen: int) -> Path | None:
        """The PNG of samples drawn at a position, or None where there is none."""
        path = self.path / "samples" / f"images_{images_seen:08d}.png"
        return path if path.is_file() else None

    @property
    def pictures(self) -> list[Path]:
        """The PNGs that were drawn besides grids of samples, in the order of their names."""
        files = (self.path / "samples").glob("*.png")
        return sorted(path for path in files if not path.name.startswith("images_"))


def load_run(run_dir: str | Path) -> Run:
    """Read a run folder, finished or not.

    Args:
        run_dir: The folder that a training recipe wrote.

    Returns:
        The run; `summary` is None when it is unfinished.

    Raises:
        CheckpointNotFoundError: The folder, its configuration or its log is missing.
        CheckpointError: A file in it cannot be read; the message names file and line.
    """
    path = Path(run_dir)
    for name in ("config.yaml", "metrics.jsonl"):
        if not (path / name).is_file():
            raise CheckpointNotFoundError(
                f"a run folder holds config.yaml and metrics.jsonl, but {path} has no {name}. Give "
                "the folder that a training recipe printed as run_dir."
            )
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(path / "config.yaml", "YAML", error) from error
    if not isinstance(config, dict) or "seed" not in config:
        raise _damaged(path / "config.yaml", "a mapping with a seed", type(config).__name__)
    evaluations = _evaluations(path / "metrics.jsonl")
    return Run(
        path=path,
        config=config,
        environment=_json_object(path / "environment.json") or {},
        evaluations=tuple(sorted(evaluations, key=lambda evaluation: evaluation.images_seen)),
        summary=_json_object(path / "summary.json"),
    )


def better(metric: str) -> str:
    """Which scores of a metric are better, `"lower"` (every distance) or `"higher"`.

    Args:
        metric: A metric's name; what follows an underscore may name the features, `"recall_inception"` say.

    Returns:
        The word.
    """
    return "higher" if is_higher_better(metric) else "lower"


def main_metric(runs: Sequence[Run]) -> str:
    """The score that runs are compared by when nobody names one.

    Args:
        runs: Runs of one comparison.

    Returns:
        FID, a Fréchet distance, or the first metric, of those that the first run with scores has.

    Raises:
        ConfigurationError: No run has scores.
    """
    metrics = next((run.metrics for run in runs if run.metrics), [])
    if not metrics:
        raise ConfigurationError(
            f"a comparison needs runs with scores, got {', '.join(str(run.path) for run in runs) or 'none'}."
            " Train with a score."
        )
    return min(
        metrics, key=lambda name: (not name.startswith(("fid", "fd_")), "infinity" in name, name)
    )


def _evaluations(path: Path) -> Iterator[Evaluation]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            if "evaluation" not in row:
                continue
            result = row["evaluation"]
            yield Evaluation(
                images_seen=int(row["images_seen"]),
                scores={k: v | {"value": float(v["value"])} for k, v in result["scores"].items()},
                protocol=rename_old_keys(result["protocol"]),
                warnings=tuple(result.get("warnings", ())),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            came = f"{type(error).__name__}: {error}"
            raise _damaged(path, f"a training row or a score row in line {number}", came) from error


def _json_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, "a JSON object", error) from error
    if not isinstance(content, dict):
        raise _damaged(path, "a JSON object", type(content).__name__)
    return content


def _damaged(path: Path, expected: str, came: object) -> CheckpointError:
    return CheckpointError(
        f"{path} should hold {expected}, but does not ({came}). Resume the run with the command "
        "that started it, or train it again in a new folder."
    )


def warnings_of(arms: Iterable[Sequence[Run]]) -> list[str]:
    """What the last evaluations complained of, each complaint once."""
    last = [run.evaluations[-1] for runs in arms for run in runs]
    texts = dict.fromkeys(text for evaluation in last for text in evaluation.warnings)
    return [f"Warning: {text}" for text in texts]
