"""Scores with the protocol they were measured under, ready for JSON without loss."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from nacgen.errors import ConfigurationError

MetricName = Literal["fid", "is", "kid", "kid_exact", "prdc", "fid_infinity", "memorization"]

HIGHER_IS_BETTER = ("inception_score", "precision", "recall", "density", "coverage", "elbo")
MAX_IMAGES = 100_000_000  # in one evaluation; their numbers alone take 800 MB
OLD_KEYS = {"quantisation": "quantization", "neighbours": "neighbors"}


def check_metrics(names: Sequence[str], has_training_images: bool) -> None:
    """Raise a `ConfigurationError` unless the metrics are known and have what they need."""
    known = get_args(MetricName)
    unknown = [repr(name) for name in names if name not in known]
    if unknown or not names:
        raise ConfigurationError(
            f"metrics must be one or more of {', '.join(known)}, got {', '.join(unknown) or 'none'}. On the "
            "command line, give REFERENCE and GENERATED before --metrics, which takes all words after it."
        )
    if has_training_images != ("memorization" in names):
        raise ConfigurationError(
            "the metric memorization and training_images go together, got "
            f"{'training_images' if has_training_images else 'memorization'} alone. Give both, or neither."
        )


def describe_bias(bias: str) -> str:
    """Say what a bias means, for generators and for splits of a dataset alike."""
    return (
        f"independent samples of one Gaussian would score about {bias} (real images some 15 % more, "
        "with few of them twice as much and more; splits with balanced classes less)"
    )


def describe_protocol(protocol: Mapping[str, Any]) -> str:
    """Say in a line for a terminal what scores rest on; fields that an old run did not record are left out."""
    texts = {
        "extractor": "extractor {}",
        "reference": "reference {}",
        "num_reference": "{} reference images",
        "num_samples": "{} samples",
    }
    found = {key: protocol[key] for key in texts if key in protocol}
    shown = {key: f"{x:,}" if isinstance(x, int) else x for key, x in found.items()}
    return ", ".join(texts[key].format(x) for key, x in shown.items())


def is_higher_better(score_name: str) -> bool:
    """Return True if a higher score is better; a suffix may name the features, as in `"recall_inception"`."""
    return any(score_name == name or score_name.startswith(f"{name}_") for name in HIGHER_IS_BETTER)


def rename_old_keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys of a protocol, or of a score's settings, the names that they have today."""
    return {OLD_KEYS.get(key, key): value for key, value in fields.items()}


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """Choices that metrics leave open; the defaults are those of published figures."""

    splits: int = 10
    """Number of splits of the Inception Score."""
    subsets: int = 100
    """Number of subsets that the kernel distance is averaged over."""
    subset_size: int | None = None
    """Images in each of these subsets; None: 1,000, or all where there are fewer."""
    neighbors: int = 5
    """Neighbors that a neighborhood reaches to, for precision, recall, density and coverage."""
    seed: int = 0
    """Seed of what is drawn: subsets of images."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        lowest = {"splits": 1, "subsets": 1, "subset_size": 2, "neighbors": 1, "seed": 0}
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigurationError(f"{name} must be {bound} or more, got {value}.")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score: its value, and what is known of its errors.

    Args:
        value: The score.
        raw: The score before rounding errors below zero were set to zero.
        bias: Expected value if the generated and the reference images were independent draws from one Gaussian;
            12 to 15 % low for real features, half of what they score or less with fewer images than features,
            too high for a reference whose classes are balanced by design. Zero for scores without bias, None where
            it is not known.
        spread: Uncertainty of the value, in the unit of the value; None for metrics that give none.
        spread_kind: Kind of the spread; only a standard error is the error of the value.
        settings: Choices that belong to this score alone; two scores compare only where these are equal.
    """

    value: float
    raw: float
    bias: float | None
    spread: float | None = None
    spread_kind: str | None = None
    settings: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """Everything but the generator that decides a score; two scores compare only where these are equal."""

    extractor: str
    extractor_fingerprint: str  # digest of weights and preprocessing
    independent_of_nac: bool  # True if the features owe nothing to Neural Activation Coding
    reference: str  # name and split of the reference images
    reference_fingerprint: str  # digest of their pixels
    num_reference: int
    num_samples: int  # number of generated images
    quantization: str  # rule by which pixels became whole numbers
    resize: str  # method that brings images to the extractor's size
    feature_dim: int
    dtype: str  # precision that features were computed in, "float32" or "tf32"
    seed: int  # block of `num_samples` images that was generated
    model: str  # name of the weights that generated the images, for example "ema"
    ddof: int  # covariances are divided by n - ddof


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Scores with their protocol.

    Args:
        scores: Scores by name, for example `"fid"` or `"fd_digits_classifier"`.
        protocol: Protocol that all of them were measured under.
        warnings: Limits of the scores; each text starts with a keyword and a colon.

    Example:
        >>> digits = nacgen.data.datasets.load_dataset("digits", "test")
        >>> extractor = nacgen.metrics.build_extractor("digits_classifier")
        >>> result = nacgen.metrics.evaluate(digits.read, digits, extractor=extractor, num_samples=355)
        >>> round(result.scores["fd_digits_classifier"].value, 4), result.protocol.num_reference
        (0.0, 355)
    """

    scores: Mapping[str, Score]
    protocol: EvaluationProtocol
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, strings and numbers, ready for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}
