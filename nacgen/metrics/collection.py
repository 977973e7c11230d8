"""One pass of images through an extractor, which collects every statistic that scores need."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nacgen.errors import ConfigurationError, DataError
from nacgen.functional.inception_score import InceptionScore
from nacgen.metrics.class_sums import ClassSums
from nacgen.metrics.extractors.base import FeatureExtractor, check_images
from nacgen.metrics.statistics import GaussianStats, StatsAccumulator
from nacgen.system.processes import Processes

ImageSource = Callable[[Int64[Tensor, " b"]], UInt8[Tensor, "b 3 h w"]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Collected:
    """Statistics of a set of images, the same on every process.

    Args:
        stats: Mean and covariance of the features.
        features: All features in the order of the images, if they were asked for.
        inception_score: Inception Score of the logits, if it was asked for.
    """

    stats: GaussianStats
    features: Float[Tensor, "n d"] | None = None
    inception_score: InceptionScore | None = None


def collect(
    images_of: ImageSource,
    indices: Int64[Tensor, " n"],
    extractor: FeatureExtractor,
    *,
    batch_size: int,
    processes: Processes,
    keep_features: bool = False,
    num_splits: int | None = None,
) -> Collected:
    """Pass images through an extractor, without gradients; torch's random state is restored.

    Memory does not grow with the number of images unless features are kept. Every process must call, and every
    process raises what any of them did.

    Args:
        images_of: Function from int64 indices `(b,)` to uint8 images `(b, 3, h, w)`.
        indices: Indices of all images; each process takes its part of them.
        extractor: Feature extractor.
        batch_size: Number of images held at a time, on each process.
        processes: Processes that divide the work.
        keep_features: True to keep, and exchange, the features themselves.
        num_splits: Number of splits of the Inception Score; None leaves it out.

    Returns:
        The statistics that were asked for.

    Raises:
        ConfigurationError: If `batch_size` is below one, or the extractor has no logits for the Inception Score.
        DataError: If there are fewer than two images, or they are not uint8 `(b, 3, h, w)`.
        NonFiniteError: If a feature or logit is NaN or infinite.
    """
    if batch_size < 1:
        raise ConfigurationError(f"batch_size must be one or more, got {batch_size}.")
    sums = StatsAccumulator(extractor.feature_dim, processes.device)
    classes = None if num_splits is None else ClassSums(len(indices), num_splits, processes)
    kept = [torch.empty(0, extractor.feature_dim, device=processes.device)]
    own, positions = processes.take(indices), processes.take(torch.arange(len(indices)))
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with processes.failing_together(), torch.no_grad(), torch.random.fork_rng(devices):
        for start in range(0, len(own), batch_size):
            batch = own[start : start + batch_size]
            images = images_of(batch)
            check_images(images)
            if len(images) != len(batch):
                raise DataError(
                    f"generate must give one image for each of {len(batch)} indices, got {len(images)}."
                )
            pooled, logits = extractor(images)
            sums.update(pooled)
            if keep_features:
                kept.append(pooled.detach().to(processes.device).float())
            if classes is not None:
                if logits is None:
                    raise ConfigurationError(
                        f"the Inception Score needs class logits, and {extractor.name} gives none. "
                        "Leave out the metric, or use an extractor that classifies."
                    )
                classes.update(logits, positions[start : start + batch_size])
    if processes.num_processes > 1:
        sums.reduce()
    return Collected(
        stats=sums.result(),
        features=processes.gather(torch.cat(kept), len(indices)) if keep_features else None,
        inception_score=None if classes is None else classes.result(),
    )
