"""Each metric: from what two sets of images left behind to named scores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nacgen.functional.features import draw_rows
from nacgen.functional.fid_infinity import fid_infinity
from nacgen.functional.frechet import frechet_bias, frechet_distance
from nacgen.functional.kernel_distance import kernel_distance, kernel_distance_of_subsets
from nacgen.functional.neighbors import precision_recall_density_coverage
from nacgen.metrics.collection import Collected
from nacgen.metrics.result import MetricName, MetricSettings, Score

JACKKNIFE_BLOCKS = 20
LINE_SIZES = 15


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """Two sets of images to be scored, and how.

    Args:
        reference: What is compared with.
        generated: What is judged.
        score_name: Of the Fréchet distance in these features.
        settings: The metrics' own choices.
    """

    reference: Collected
    generated: Collected
    score_name: str
    settings: MetricSettings

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """Of reference and generated images, on one device: files are read onto the CPU."""
        assert self.reference.features is not None
        assert self.generated.features is not None
        return self.reference.features.to(self.generated.features.device), self.generated.features

    @property
    def subset_size(self) -> int:
        """Images of a subset of the kernel distance."""
        n, m = self.reference.stats.n, self.generated.stats.n
        return self.settings.subset_size or min(1000, n, m)

    def name(self, published: str, elsewhere: str) -> str:
        """What a score is called: as published in the FID Inception's features, by extractor in others."""
        if self.score_name.startswith("fid"):
            return published + self.score_name.removeprefix("fid")
        return elsewhere + self.score_name.removeprefix("fd")


def _fid(pair: Pair) -> dict[str, Score]:
    real, generated = pair.reference.stats, pair.generated.stats
    distance = frechet_distance(real.mean, real.covariance, generated.mean, generated.covariance)
    bias = frechet_bias(real.covariance, real.n, generated.n)
    score = Score(value=float(distance.value), raw=float(distance.raw), bias=float(bias))
    return {pair.score_name: score}


def _fid_infinity(pair: Pair) -> dict[str, Score]:
    real, (_, features) = pair.reference.stats, pair.features
    mean, covariance = (part.to(features.device) for part in (real.mean, real.covariance))
    line = fid_infinity(mean, covariance, features, num_sizes=LINE_SIZES, seed=pair.settings.seed)
    score = Score(
        value=float(line.value),
        raw=float(line.value),
        bias=float(frechet_bias(real.covariance, real.n, real.n)) / 2,  # the reference's part
        spread=float(line.standard_error),
        spread_kind="standard error of the line's intercept",
        settings={"sizes": LINE_SIZES, "seed": pair.settings.seed},
    )
    return {pair.name("fid_infinity", "fd_infinity"): score}


def _inception_score(pair: Pair) -> dict[str, Score]:
    assert pair.generated.inception_score is not None
    value, spread = pair.generated.inception_score
    score = Score(
        value=float(value),
        raw=float(value),
        bias=None,
        spread=float(spread),
        spread_kind="standard deviation over splits (ddof 0)",
        settings={"splits": pair.settings.splits},
    )
    return {pair.name("inception_score", "inception_score"): score}


def _kid(pair: Pair) -> dict[str, Score]:
    distance = kernel_distance_of_subsets(
        *pair.features,
        num_subsets=pair.settings.subsets,
        subset_size=pair.subset_size,
        seed=pair.settings.seed,
    )
    score = Score(
        value=float(distance.value),
        raw=float(distance.value),
        bias=0.0,
        spread=float(distance.spread),
        spread_kind="standard deviation over subsets (ddof 0)",
        settings={
            "subsets": pair.settings.subsets,
            "subset_size": pair.subset_size,
            "seed": pair.settings.seed,
        },
    )
    return {pair.name("kid", "kd"): score}


def _kid_exact(pair: Pair) -> dict[str, Score]:
    generator = torch.Generator().manual_seed(pair.settings.seed)  # images may be sorted by class
    shuffled = (draw_rows(rows, len(rows), generator) for rows in pair.features)
    distance = kernel_distance(*shuffled, num_blocks=JACKKNIFE_BLOCKS)
    score = Score(
        value=float(distance.value),
        raw=float(distance.value),
        bias=0.0,
        spread=float(distance.spread),
        spread_kind="standard error (block jackknife)",
        settings={"blocks": JACKKNIFE_BLOCKS, "seed": pair.settings.seed},
    )
    return {pair.name("kid_exact", "kd_exact"): score}


def _prdc(pair: Pair) -> dict[str, Score]:
    k = pair.settings.neighbors
    shares = precision_recall_density_coverage(*pair.features, k=k)
    return {
        pair.name(name, name): Score(
            value=float(processes), raw=float(processes), bias=None, settings={"neighbors": k}
        )
        for name, processes in shares._asdict().items()
    }


class Least(NamedTuple):
    """Fewest images that a metric can be computed from."""

    reference: int
    generated: int


@dataclass(frozen=True)
class Metric:
    """How a metric is computed, and what has to be collected for it.

    Args:
        scores: Its scores by name.
        least: Fewest images that it can be computed from, given settings and feature length.
        needs_features: Whether all features have to be held, `n * d` floats for each set of images.
        needs_logits: Whether the extractor has to classify.
    """

    scores: Callable[[Pair], dict[str, Score]]
    least: Callable[[MetricSettings, int], Least]
    needs_features: bool = False
    needs_logits: bool = False


METRICS: Mapping[MetricName, Metric] = {
    "fid": Metric(_fid, lambda settings, dim: Least(2, 2)),
    "is": Metric(
        _inception_score, lambda settings, dim: Least(2, settings.splits), needs_logits=True
    ),
    "kid": Metric(
        _kid,
        lambda settings, dim: Least(settings.subset_size or 2, settings.subset_size or 2),
        needs_features=True,
    ),
    "kid_exact": Metric(
        _kid_exact,
        lambda settings, dim: Least(JACKKNIFE_BLOCKS, JACKKNIFE_BLOCKS),
        needs_features=True,
    ),
    "prdc": Metric(
        _prdc,
        lambda settings, dim: Least(settings.neighbors + 1, settings.neighbors + 1),
        needs_features=True,
    ),
    "fid_infinity": Metric(
        _fid_infinity, lambda settings, dim: Least(2, 2 * dim + LINE_SIZES), needs_features=True
    ),
}
