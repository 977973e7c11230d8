"""Scores with the protocol they were measured under, to and from JSON without loss."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from nacgen.errors import ConfigurationError, DataError

MetricName = Literal["fid", "is", "kid", "kid_exact", "prdc", "fid_infinity"]

HIGHER_IS_BETTER = ("inception_score", "precision", "recall", "density", "coverage", "elbo")
OLD_KEYS = {"quantisation": "quantization", "neighbours": "neighbors"}


def is_higher_better(score_name: str) -> bool:
    """Tell whether a higher score is a better one; of distances and losses, the lower one is.

    Args:
        score_name: Name of a score; a suffix may name the features, as in `"recall_inception"`.

    Returns:
        True where higher is better.

    Example:
        >>> is_higher_better("fid"), is_higher_better("recall_digits_classifier")
        (False, True)
    """
    return any(score_name == name or score_name.startswith(f"{name}_") for name in HIGHER_IS_BETTER)


def rename_old_keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys of a protocol, or of a score's settings, the names that they have today.

    Args:
        fields: Mapping that this or an earlier version wrote.

    Returns:
        The same values under today's names.

    Example:
        >>> rename_old_keys({"neighbours": 5, "seed": 0})
        {'neighbors': 5, 'seed': 0}
    """
    return {OLD_KEYS.get(key, key): value for key, value in fields.items()}


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """Choices that a metric leaves open; the defaults are those of published figures."""

    splits: int = 10
    """Of the Inception Score."""
    subsets: int = 100
    """That the kernel distance is averaged over."""
    subset_size: int | None = None
    """Their images; None: 1,000, or all where there are fewer."""
    neighbors: int = 5
    """That the neighbourhoods of precision, recall, density and coverage reach to."""
    seed: int = 0
    """Of what is drawn: subsets, and the jackknife's blocks."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        lowest = {"splits": 1, "subsets": 1, "subset_size": 2, "neighbors": 1, "seed": 0}
        for name, bound in lowest.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ConfigurationError(f"{name} must be {bound} or more, got {value}.")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score: its value, what the arithmetic gave, and what a perfect generator would get.

    Args:
        value: The score.
        raw: Before rounding errors below zero became zero.
        bias: Expected value at this number of images if generated and reference images were drawn from one
            Gaussian; zero for scores without bias, None where it is not known.
        spread: How sure the value is, in its own unit, for metrics that say so.
        spread_kind: What the spread is; only a standard error is the error of the value.
        settings: Choices that belong to this score alone; scores compare where these are equal, too.
    """

    value: float
    raw: float
    bias: float | None
    spread: float | None = None
    spread_kind: str | None = None
    settings: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """All that decides a score apart from the generator; scores compare where these are equal.

    Args:
        extractor: Name of the features.
        extractor_fingerprint: Of weights and preprocessing.
        independent_of_nac: Whether the features owe nothing to Neural Activation Coding.
        reference: Name and split of the reference images.
        reference_fingerprint: Of their pixels.
        num_reference: How many they are.
        num_samples: How many images were generated.
        quantisation: How pixels became whole numbers.
        resize: How images reached the extractor's size.
        feature_dim: Length of a feature vector.
        dtype: In which features were computed.
        seed: Which block of `num_samples` images was generated.
        model: Which weights generated them, `"ema"` say.
        ddof: Covariances are divided by `n - ddof`.
    """

    extractor: str
    extractor_fingerprint: str
    independent_of_nac: bool
    reference: str
    reference_fingerprint: str
    num_reference: int
    num_samples: int
    quantization: str
    resize: str
    feature_dim: int
    dtype: str
    seed: int
    model: str
    ddof: int


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Scores with their protocol.

    Args:
        scores: By name, `"fid"` or `"fd_digits_classifier"` say.
        protocol: How they came about.
        warnings: What limits them; each starts with a keyword and a colon.
    """

    scores: Mapping[str, Score]
    protocol: EvaluationProtocol
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, ready for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, exact to the last bit.

        Args:
            fields: What `to_dict` gave.

        Returns:
            The result.

        Raises:
            DataError: A field is missing, unknown, or no mapping.
        """
        try:
            return cls(
                scores={name: Score(**score) for name, score in fields["scores"].items()},
                protocol=EvaluationProtocol(**fields["protocol"]),
                warnings=tuple(fields["warnings"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(
                "an evaluation holds scores, protocol and warnings as EvaluationResult.to_dict "
                f"writes them, got {fields!r:.200} ({error}). Evaluate again with this version."
            ) from error
