"""One pass of images through an extractor, which collects every statistic that scores need."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nacgen.errors import ConfigurationError, DataError
from nacgen.functional.inception_score import InceptionScore
from nacgen.metrics.extractors.base import FeatureExtractor, check_images
from nacgen.metrics.statistics import ClassSums, GaussianStats, StatsAccumulator
from nacgen.system.processes import Processes

ImageSource = Callable[[Int64[Tensor, " b"]], UInt8[Tensor, "b 3 h w"]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Collected:
    """Statistics of a set of images, the same on every process; features are in the order of the images."""

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

    Each process takes its part of the indices, every process must call, and every process raises what any of them
    did. Memory does not grow with the number of images unless features are kept. The Inception Score is computed
    if its number of splits is given.
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
