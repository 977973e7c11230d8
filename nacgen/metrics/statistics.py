"""One pass of images through an extractor: mean and covariance of features, and the Inception Score.

Source:
    Chan, Golub & LeVeque 1979, Stanford STAN-CS-79-773 (the pairwise merge).
"""

from dataclasses import dataclass

import torch
from einops import pack, unpack
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from nacgen.errors import ConfigurationError, DataError, NonFiniteError
from nacgen.functional.inception_score import (
    InceptionScore,
    certainty_and_classes,
    score_of_splits,
    split_of,
)
from nacgen.metrics.extractors.base import MAX_FEATURES, FeatureExtractor
from nacgen.metrics.inputs import ImageSource, image_batch
from nacgen.system.processes import Processes, gather_parts


@dataclass(frozen=True, eq=False)
class GaussianStats:
    """Mean and unbiased covariance (divided by `n - 1`) of a sample of `n` features, two or more, on the CPU."""

    n: int
    mean: Float64[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]


class StatsAccumulator:
    """Running mean and sum of centered outer products, in float64.

    Batches are centered before they are multiplied, so a large offset costs no precision. NaN and infinity are
    carried along, and across processes, up to `result`, where every process raises.

    Args:
        feature_dim: Length of a feature vector.
        device: Device that holds and exchanges the sums; the CPU stands in for a device without float64.

    Example:
        >>> accumulator = StatsAccumulator(2)
        >>> accumulator.update(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
        >>> accumulator.result().mean
        tensor([2., 2.], dtype=torch.float64)
    """

    def __init__(self, feature_dim: int, device: torch.device | str = "cpu") -> None:
        device = "cpu" if torch.device(device).type == "mps" else device
        self.n = 0
        self.mean = torch.zeros(feature_dim, dtype=torch.float64, device=device)
        self.m2 = torch.zeros(feature_dim, feature_dim, dtype=torch.float64, device=device)

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Add a batch of features, one row an image, of any float type; it may be empty."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"features must be (b, {len(self.mean)}), got {tuple(features.shape)}. Pool feature maps over "
                "their pixels."
            )
        if len(features) > 0:
            rows = features.detach().to(self.mean.device).double()
            mean = rows.mean(dim=0)
            centered = rows - mean
            self._merge(len(rows), mean, centered.mT @ centered)

    def reduce(self) -> None:
        """Add the sums of all processes, so that each holds the same bits; every process must call."""
        n = torch.tensor(float(self.n)).to(self.mean)
        own, shapes = pack([n, self.mean, self.m2], "*")
        self.n, self.mean, self.m2 = 0, torch.zeros_like(self.mean), torch.zeros_like(self.m2)
        for part in gather_parts(own):  # in the order of ranks, on every process
            n, mean, m2 = unpack(part, shapes, "*")
            self._merge(int(n), mean, m2)

    def result(self) -> GaussianStats:
        """Return mean and covariance of everything seen so far.

        Raises:
            DataError: If fewer than two samples were seen.
            NonFiniteError: If a feature was NaN or infinite.
        """
        if self.n < 2:
            raise DataError(
                f"a covariance needs two samples or more, got {self.n}. Score more images."
            )
        is_finite = self.mean.isfinite() & self.m2.diagonal().isfinite()
        if not is_finite.all():
            raise NonFiniteError(
                f"features must be finite, got NaN or infinity in {int((~is_finite).sum())} of "
                f"{len(self.mean)} columns among {self.n} samples. Look at the images and the extractor's weights."
            )
        return GaussianStats(self.n, self.mean.cpu(), (self.m2 / (self.n - 1)).cpu())

    def _merge(self, n: int, mean: Tensor, m2: Tensor) -> None:
        if n == 0:
            return
        total = self.n + n
        delta = mean - self.mean
        self.m2 = self.m2 + m2 + torch.outer(delta, delta) * (self.n * n / total)
        self.mean = self.mean + delta * (n / total)
        self.n = total


class ClassSums:
    """Sums of class probabilities that the Inception Score of `n` images needs, for each split, in float64.

    Images are assigned to splits at random, always in the same way, because files are often sorted by class, and a
    split of a single class would score 1.
    """

    def __init__(self, n: int, num_splits: int, processes: Processes) -> None:
        self.n, self.num_splits, self.processes = n, num_splits, processes
        self.order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        self.certainty = torch.zeros(num_splits, dtype=torch.float64, device=processes.device)
        self.classes: Tensor | None = None

    def update(self, logits: Float[Tensor, "b k"], positions: Int64[Tensor, " b"]) -> None:
        """Add a batch of logits, given the position of each image among all images."""
        log_p = logits.detach().to(self.processes.device).double().log_softmax(dim=1)
        split = split_of(self.order[positions], self.n, self.num_splits).to(self.processes.device)
        certainty, classes = certainty_and_classes(log_p, split, self.num_splits)
        self.certainty += certainty
        self.classes = classes if self.classes is None else self.classes + classes

    def result(self) -> InceptionScore:
        """Return the score over all processes, the same on each; every process must call."""
        num_classes = 0 if self.classes is None else self.classes.shape[1]
        widths = self.processes.gather(
            torch.tensor([num_classes], device=self.processes.device), self.processes.num_processes
        )
        if self.classes is None:  # fewer images than processes
            self.classes = self.certainty.new_zeros(self.num_splits, int(widths.max()))
        certainty, classes = self.processes.sum(self.certainty), self.processes.sum(self.classes)
        if not certainty.isfinite().all():
            raise NonFiniteError(
                f"logits must be finite, got NaN or infinity in {int((~certainty.isfinite()).sum())} of "
                f"{self.num_splits} splits of {self.n} images. Look at the images and the extractor's weights."
            )
        sizes = split_of(torch.arange(self.n), self.n, self.num_splits).bincount()
        return score_of_splits(certainty, classes, sizes.to(certainty.device))


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
    if batch_size < 1 or not 1 <= extractor.feature_dim <= MAX_FEATURES:
        raise ConfigurationError(
            f"batch_size must be one or more, got {batch_size}, and feature_dim of {extractor.name} between 1 and "
            f"{MAX_FEATURES:,}, got {extractor.feature_dim}."
        )
    sums = StatsAccumulator(extractor.feature_dim, processes.device)
    classes = None if num_splits is None else ClassSums(len(indices), num_splits, processes)
    kept = [torch.empty(0, extractor.feature_dim, device=processes.device)]
    own, positions = processes.take(indices), processes.take(torch.arange(len(indices)))
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with processes.failing_together(), torch.no_grad(), torch.random.fork_rng(devices):
        for start in range(0, len(own), batch_size):
            batch = own[start : start + batch_size]
            images = image_batch(images_of(batch))
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
