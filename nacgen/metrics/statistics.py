"""Mean and covariance of features that arrive in batches, on one process or several.

Source:
    Chan, Golub & LeVeque 1979, Stanford STAN-CS-79-773 (the pairwise merge).
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from einops import pack, unpack
from jaxtyping import Float, Float64
from torch import Tensor

from nacgen.errors import DataError, NonFiniteError
from nacgen.system.processes import gather_parts


@dataclass(frozen=True, eq=False)
class GaussianStats:
    """Estimates from a sample of features, on the CPU.

    Args:
        n: Size of the sample, two or more.
        mean: Sample mean.
        covariance: Unbiased sample covariance (divided by `n - 1`).
    """

    n: int
    mean: Float64[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]

    @property
    def is_rank_deficient(self) -> bool:
        """Whether the sample is too small for a covariance of full rank."""
        return self.n <= len(self.mean)


class StatsAccumulator:
    """Running mean and sum of centred outer products, in float64.

    The sums stay exact at any offset, since batches are centred before they are multiplied. NaN and
    infinity are carried along, and across processes, up to `result`, where every process raises.

    Args:
        feature_dim: Length of a feature vector.
        device: Where sums are kept and exchanged; the CPU instead of a device without float64.
    """

    def __init__(self, feature_dim: int, device: torch.device | str = "cpu") -> None:
        device = "cpu" if torch.device(device).type == "mps" else device
        self.n = 0
        self.mean = torch.zeros(feature_dim, dtype=torch.float64, device=device)
        self.m2 = torch.zeros(feature_dim, feature_dim, dtype=torch.float64, device=device)

    def update(self, features: Float[Tensor, "b d"]) -> None:
        """Add a batch.

        Args:
            features: One row an image, of any float type; no rows are fine.

        Raises:
            ValueError: The features are not rows of the expected length.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(
                f"features must be (b, {len(self.mean)}), got {tuple(features.shape)}. Pool "
                "feature maps over their pixels, and give one row an image."
            )
        if len(features) > 0:
            rows = features.detach().to(self.mean.device).double()
            mean = rows.mean(dim=0)
            centered = rows - mean
            self._merge(len(rows), mean, centered.mT @ centered)

    def merge(self, other: "StatsAccumulator") -> None:
        """Add what another accumulator has seen.

        Args:
            other: An accumulator of features of the same length, left as it is.

        Raises:
            ValueError: The lengths differ.
        """
        if len(other.mean) != len(self.mean):
            raise ValueError(
                f"accumulators must hold features of one length to be merged, got {len(self.mean)} "
                f"and {len(other.mean)}. Use one extractor for both."
            )
        self._merge(other.n, other.mean.to(self.mean.device), other.m2.to(self.mean.device))

    def reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Add what all processes have seen; every process then holds the same bits.

        Every process of the group must call it, those without images too. Without a process group
        there is nothing to add.

        Args:
            group: Processes that take part, all of them when absent.
        """
        if not dist.is_initialized():
            return
        n = torch.tensor(float(self.n)).to(self.mean)
        own, shapes = pack([n, self.mean, self.m2], "*")
        self.n, self.mean, self.m2 = 0, torch.zeros_like(self.mean), torch.zeros_like(self.m2)
        for part in gather_parts(own, group):
            n, mean, m2 = unpack(part, shapes, "*")
            self._merge(int(n), mean, m2)

    def result(self) -> GaussianStats:
        """Estimates from everything seen so far.

        Returns:
            Mean and covariance, on the CPU.

        Raises:
            DataError: Fewer than two samples were seen.
            NonFiniteError: A feature was NaN or infinite.
        """
        if self.n < 2:
            raise DataError(
                f"a covariance needs two samples or more, got {self.n}. Score more images."
            )
        is_finite = self.mean.isfinite() & self.m2.diagonal().isfinite()
        if not is_finite.all():
            raise NonFiniteError(
                f"features must be finite, got NaN or infinity in {int((~is_finite).sum())} of "
                f"{len(self.mean)} columns among {self.n} samples. Look at the images that were "
                "scored, and at the extractor's weights."
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
