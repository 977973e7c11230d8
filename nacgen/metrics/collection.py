"""One pass over images: through the extractor once, and every statistic that scores need."""

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
    """What a set of images leaves behind, the same on every process.

    Args:
        stats: Mean and covariance of the features.
        features: All of them, in the order of the images, where they were asked for.
        inception_score: That of the logits, where it was asked for.
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

    Memory does not grow with the number of images unless features are kept.

    Args:
        images_of: Int64 indices `(b,)` to uint8 images `(b, 3, h, w)`.
        indices: All images; this process takes its share of them.
        extractor: Their features.
        batch_size: Images that are held at a time, on each process.
        processes: Of this process; every process must call.
        keep_features: Whether to keep, and exchange, the features themselves.
        num_splits: Those of the Inception Score; None leaves it out.

    Returns:
        What was asked for.

    Raises:
        ConfigurationError: `batch_size` is below one, or the extractor has no logits for the Inception Score.
        DataError: There are fewer than two images, or they are not uint8 `(b, 3, h, w)`.
        NonFiniteError: A feature or logit is NaN or infinite.
        Exception: Whatever `images_of` raised. Every process raises what any of them did.
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
