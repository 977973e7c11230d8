"""Run folders as data: the configuration, every score on the way, and the summary."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.metrics.result import is_higher_better, rename_old_keys
from nacgen.system.documents import flatten, parse_yaml, strict_json
from nacgen.system.files import read_regular
from nacgen.system.terminal import warn
from nacgen.training.fingerprints import read_fingerprints
from nacgen.training.old_options import REMOVED, RENAMED

LARGEST_DOCUMENT, LARGEST_PICTURE = 1_000_000, 30_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class RecordedEvaluation:
    """The scores at one moment of a run, with their protocol."""

    images_seen: int
    scores: Mapping[str, Mapping[str, Any]]
    """Score by metric: its `value` and, if known, `raw`, `bias`, `spread` and `settings`."""
    protocol: Mapping[str, Any]
    """Settings that must be equal for two scores to be comparable."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """The contents of one run folder."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    """Contents of `environment.json`; empty if there is none."""
    evaluations: tuple[RecordedEvaluation, ...]
    """Evaluations in the order of images seen."""
    summary: Mapping[str, Any] | None
    """Contents of `summary.json`, or None while the run is unfinished."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Fingerprints of images and models that the run is made from; empty for a run of an earlier version."""

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.config["seed"])

    @property
    def arm(self) -> str:
        """Weights of the encoder that the model starts from or is aligned to, such as `"nac"` or `"random"`."""
        return str(self.config.get("init", self.config.get("align", "run")))

    @property
    def kind(self) -> str | None:
        """The use of an encoder by which runs are compared, None for a run without one."""
        kinds = {"init": "initialization", "align": "alignment"}
        return next((kind for option, kind in kinds.items() if option in self.config), None)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that were evaluated, sorted."""
        return sorted({name for evaluation in self.evaluations for name in evaluation.scores})

    def curve(self, metric: str) -> dict[int, float]:
        """Return every score of a metric by images seen; a metric that the run lacks is refused."""
        curve = {e.images_seen: e.scores[metric]["value"] for e in self._scored(metric)}
        if not curve:
            raise ConfigurationError(
                f"expected scores of {metric} in {self.path}, which has "
                f"{', '.join(self.metrics) or 'no scores'}. Name one of those, or train with that score."
            )
        return curve

    def logged(self, name: str) -> dict[int, float]:
        """Return a number of the log, by its dotted name, at each position where it was logged."""
        rows = (self.path / "metrics.jsonl").read_bytes().splitlines()
        flat = [flatten(strict_json(row, allow_nan=True)) for row in rows]
        return {
            row["images_seen"]: row[name] for row in flat if isinstance(row.get(name), int | float)
        }

    def protocols(self, metric: str) -> dict[int, Mapping[str, Any]]:
        """Return the protocol of each score of `curve` by images seen, with the settings of that score."""
        found: dict[int, Mapping[str, Any]] = {}
        for each in self._scored(metric):
            settings = rename_old_keys(each.scores[metric].get("settings", {}))
            own = {f"{metric}.{name}": value for name, value in settings.items()}
            found[each.images_seen] = {**each.protocol, **own}
        return found

    def _scored(self, metric: str) -> list[RecordedEvaluation]:
        return [each for each in self.evaluations if metric in each.scores]

    def sample_grid(self, images_seen: int) -> Path | None:
        """Return the path of the sample grid drawn at a position, or None if there is no whole one."""
        path = self.path / "samples" / f"images_{images_seen:08d}.png"
        return path if is_picture(path) else None


def load_run(run_dir: str | Path) -> RecordedRun:
    """Read a run folder, finished or not.

    Args:
        run_dir: Path of a folder that a training recipe wrote.

    Raises:
        CheckpointNotFoundError: The folder, its configuration or its log is missing.
        CheckpointError: A file in it cannot be read; the message names file and line.

    Example:
        >>> score = '{"scores": {"fid": {"value": 9.5}}, "protocol": {"num_samples": 2000}}'
        >>> run_dir = Path(tempfile.mkdtemp())
        >>> _ = (run_dir / "config.yaml").write_text("seed: 0")
        >>> _ = (run_dir / "metrics.jsonl").write_text(f'{{"images_seen": 640, "evaluation": {score}}}')
        >>> nacgen.reporting.load_run(run_dir).curve("fid")
        {640: 9.5}
    """
    path = Path(run_dir)
    for name in ("config.yaml", "metrics.jsonl"):
        if not (path / name).is_file():
            raise CheckpointNotFoundError(
                f"a run folder holds config.yaml and metrics.jsonl, but {path} has no {name}. Give "
                "the folder that a training recipe printed as run_dir."
            )
    config = _mapping(path / "config.yaml", parse_yaml) or {}
    if "seed" not in config:
        raise _damaged(path / "config.yaml", "a seed", f"only {', '.join(map(str, config))}")
    environment: dict[str, Any] = {}
    try:
        found = _mapping(path / "environment.json", strict_json) or {}
        for name, kind in (("device", str), ("threads", int), ("num_processes", int)):
            if not isinstance(value := found.get(name, kind()), kind):
                raise _damaged(path / "environment.json", f"a {kind.__name__} as {name}", value)
        environment = found
    except CheckpointError as error:  # every session writes it again
        warn(f"passed over: {error}")
    evaluations = list(_evaluations(path / "metrics.jsonl"))
    moments = [(each.images_seen, metric) for each in evaluations for metric in each.scores]
    if len(set(moments)) < len(moments):
        raise _damaged(
            path / "metrics.jsonl", "one score of a metric at a time", "some are repeated"
        )
    summary = _mapping(path / "summary.json", partial(strict_json, allow_nan=True))
    for name, values, key in (
        ("config.yaml", config, "seed"),
        ("summary.json", summary, "images_seen"),
    ):
        if values is not None and (type(number := values.get(key)) is not int or number < 0):
            raise _damaged(path / name, f"a whole number as {key}", f"{number!r:.50}")
    if summary is not None and type(seconds := summary.get("seconds", 0)) not in (int, float):
        raise _damaged(path / "summary.json", "a number as seconds", f"{seconds!r:.50}")
    return RecordedRun(
        path=path,
        config=config,
        environment=environment,
        evaluations=tuple(sorted(evaluations, key=lambda evaluation: evaluation.images_seen)),
        summary=summary,
        inputs=read_fingerprints(path).get("inputs", {}),
    )


def is_picture(path: Path) -> bool:
    """Return True for a whole PNG file of a size that a page can hold."""
    try:
        content = read_regular(path, LARGEST_PICTURE)
    except OSError:
        return False
    return content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration by dotted name: renamed options under today's names, removed ones left out."""
    options = flatten(config).items()
    return {RENAMED.get(name, name): value for name, value in options if name not in REMOVED}


def better(metric: str) -> str:
    """Return the direction in which scores of a metric improve, `"lower"` or `"higher"`."""
    return "higher" if is_higher_better(metric) else "lower"


def main_metric(runs: Sequence[RecordedRun]) -> str:
    """Return the metric that runs are compared by if none is named: FID, a Fréchet distance, or the first.

    The first run with scores decides; runs without any scores are refused.
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


def warnings_of(arms: Iterable[Sequence[RecordedRun]]) -> list[str]:
    """Return the warnings of the last evaluations, each once."""
    last = [run.evaluations[-1] for runs in arms for run in runs]
    texts = dict.fromkeys(text for evaluation in last for text in evaluation.warnings)
    return [f"Warning: {text}" for text in texts]


def _evaluations(path: Path) -> Iterator[RecordedEvaluation]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = strict_json(line, allow_nan=True)
            if "evaluation" not in row:
                continue
            images_seen, result = _require(row["images_seen"], int), row["evaluation"]
            for score in result["scores"].values():
                _require(score["value"], int, float)
                _require(score.get("bias"), int, float, NoneType)
                _require(score.get("settings", {}), dict)
            yield RecordedEvaluation(
                images_seen=images_seen,
                scores={k: v | {"value": float(v["value"])} for k, v in result["scores"].items()},
                protocol=rename_old_keys(result["protocol"]),
                warnings=tuple(
                    _require(w, str) for w in _require(result.get("warnings", []), list)
                ),
            )
        except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError) as error:
            came = f"{type(error).__name__}: {error}"
            raise _damaged(path, f"a training row or a score row in line {number}", came) from error


def _require(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{value!r:.50} should be of type {kinds[0].__name__}")
    return value


def _mapping(path: Path, parse: Callable[[bytes], Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = parse(read_regular(path, LARGEST_DOCUMENT))
    except (OSError, ValueError) as error:
        raise _damaged(path, "a mapping", error) from error
    if not isinstance(content, dict):
        raise _damaged(path, "a mapping", type(content).__name__)
    return content


def _damaged(path: Path, expected: str, came: object) -> CheckpointError:
    return CheckpointError(
        f"{path} should hold {expected}, but does not ({came}). Resume the run with the command "
        "that started it, or train it again in a new folder."
    )
