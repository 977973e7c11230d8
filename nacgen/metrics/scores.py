"""Metrics by name: each turns what sets of images left behind into named scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from nacgen.functional.frechet import fid_infinity, frechet_bias, frechet_distance
from nacgen.functional.kernel_distance import kernel_distance, kernel_distance_of_subsets
from nacgen.functional.neighbors import (
    nearest_neighbor_memorization,
    precision_recall_density_coverage,
)
from nacgen.metrics.reference import ReferenceStatistics
from nacgen.metrics.result import MetricSettings, Score
from nacgen.metrics.statistics import Collected

LINE_SIZES = 15


@dataclass(frozen=True, eq=False, kw_only=True)
class Compared:
    """Sets of images to be compared, in the features of one extractor; `training` is for `memorization` alone."""

    reference: ReferenceStatistics
    generated: Collected
    score_name: str
    settings: MetricSettings
    training: ReferenceStatistics | None = None

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features of reference and generated images, on the device of the latter."""
        assert self.generated.features is not None
        return self.on_device(self.reference), self.generated.features

    @property
    def subset_size(self) -> int:
        """Images in each subset of the kernel distance."""
        n, m = self.reference.stats.n, self.generated.stats.n
        return self.settings.subset_size or min(1000, n, m)

    def on_device(self, images: ReferenceStatistics) -> Tensor:
        """Bring features, which files hold on the CPU, to the device of the generated images'."""
        assert images.features is not None
        assert self.generated.features is not None
        return images.features.to(self.generated.features.device)

    def name(self, published: str, elsewhere: str | None = None) -> str:
        """Name a score: as published in the FID Inception's features, by extractor in others."""
        if self.score_name.startswith("fid"):
            return published + self.score_name.removeprefix("fid")
        return (elsewhere or published) + self.score_name.removeprefix("fd")


def _score(
    value: Tensor,
    bias: Tensor | float | None = None,
    spread: tuple[Tensor | float, str] | None = None,
    *,
    raw: Tensor | None = None,
    **settings: int | str,
) -> Score:
    return Score(
        value=float(value),
        raw=float(value if raw is None else raw),
        bias=None if bias is None else float(bias),
        spread=None if spread is None else float(spread[0]),
        spread_kind=None if spread is None else spread[1],
        settings=settings,
    )


def _fid(sets: Compared) -> dict[str, Score]:
    real, generated = sets.reference.stats, sets.generated.stats
    distance = frechet_distance(real.mean, real.covariance, generated.mean, generated.covariance)
    bias = frechet_bias(real.covariance, real.n, generated.n)
    return {sets.score_name: _score(distance.value, bias, raw=distance.raw)}


def _fid_infinity(sets: Compared) -> dict[str, Score]:
    real, (_, features), seed = sets.reference.stats, sets.features, sets.settings.seed
    mean, covariance = (part.to(features.device) for part in (real.mean, real.covariance))
    line = fid_infinity(mean, covariance, features, num_sizes=LINE_SIZES, seed=seed)
    bias = float(frechet_bias(real.covariance, real.n, real.n)) / 2  # the reference's part
    spread = line.standard_error, "standard error of the line's intercept"
    score = _score(line.value, bias, spread, sizes=LINE_SIZES, seed=seed)
    return {sets.name("fid_infinity", "fd_infinity"): score}


def _inception_score(sets: Compared) -> dict[str, Score]:
    assert sets.generated.inception_score is not None
    value, deviation = sets.generated.inception_score
    spread = deviation, "standard deviation over splits (ddof 0)"
    score = _score(value, spread=spread, splits=sets.settings.splits)
    return {sets.name("inception_score"): score}


def _kid(sets: Compared) -> dict[str, Score]:
    subsets, size, seed = sets.settings.subsets, sets.subset_size, sets.settings.seed
    distance = kernel_distance_of_subsets(
        *sets.features, num_subsets=subsets, subset_size=size, seed=seed
    )
    spread = distance.spread, "standard deviation over subsets (ddof 0)"
    score = _score(distance.value, 0, spread, subsets=subsets, subset_size=size, seed=seed)
    return {sets.name("kid", "kd"): score}


def _kid_exact(sets: Compared) -> dict[str, Score]:
    distance = kernel_distance(*sets.features)
    score = _score(distance.value, 0, (distance.spread, "standard error"))
    return {sets.name("kid_exact", "kd_exact"): score}


def _prdc(sets: Compared) -> dict[str, Score]:
    k = sets.settings.neighbors
    fractions = precision_recall_density_coverage(*sets.features, k=k)._asdict()
    return {sets.name(name): _score(value, neighbors=k) for name, value in fractions.items()}


def _memorization(sets: Compared) -> dict[str, Score]:
    assert sets.training is not None
    test, generated = sets.features
    found = nearest_neighbor_memorization(generated, sets.on_device(sets.training), test)
    n, t = len(generated), len(test)
    deviation = ((n + t + 1) / (12 * n * t)) ** 0.5  # of the Mann-Whitney statistic over n t
    score = _score(
        found.probability,
        0.5,
        (deviation, "standard deviation of a generator that copies nothing"),
        training_images=sets.training.name,
        training_fingerprint=sets.training.fingerprint,
        num_training=sets.training.stats.n,
    )
    return {sets.name("memorization"): score}


@dataclass(frozen=True)
class Metric:
    """A metric, and what has to be collected for it."""

    scores: Callable[[Compared], dict[str, Score]]
    least: Callable[[MetricSettings, int], tuple[int, int]]
    """Fewest reference and generated images, given settings and the length of features."""
    needs_features: bool = False
    needs_logits: bool = False


METRICS: Mapping[str, Metric] = {
    "fid": Metric(_fid, lambda settings, dim: (2, 2)),
    "is": Metric(_inception_score, lambda settings, dim: (2, settings.splits), needs_logits=True),
    "kid": Metric(
        _kid, lambda settings, dim: (settings.subset_size or 2,) * 2, needs_features=True
    ),
    "kid_exact": Metric(_kid_exact, lambda settings, dim: (4, 4), needs_features=True),
    "prdc": Metric(_prdc, lambda settings, dim: (settings.neighbors + 1,) * 2, needs_features=True),
    "fid_infinity": Metric(
        _fid_infinity, lambda settings, dim: (2, 2 * dim + LINE_SIZES), needs_features=True
    ),
    "memorization": Metric(_memorization, lambda settings, dim: (2, 2), needs_features=True),
}
