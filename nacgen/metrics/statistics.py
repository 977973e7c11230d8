"""Mean and covariance of features that arrive in batches, on one process or several.

Source:
    Chan, Golub & LeVeque 1979, Stanford STAN-CS-79-773 (the pairwise merge).
"""

from dataclasses import dataclass

import torch
from einops import pack, unpack
from jaxtyping import Float, Float64
from torch import Tensor

from nacgen.errors import DataError, NonFiniteError
from nacgen.system.processes import gather_parts


@dataclass(frozen=True, eq=False)
class GaussianStats:
    """Mean and covariance of a sample of features, on the CPU.

    Args:
        n: Size of the sample, two or more.
        mean: Sample mean.
        covariance: Unbiased sample covariance (divided by `n - 1`).

    Example:
        >>> mean, covariance = torch.zeros(4).double(), torch.eye(4).double()
        >>> GaussianStats(3, mean, covariance).is_rank_deficient
        True
    """

    n: int
    mean: Float64[Tensor, " d"]
    covariance: Float64[Tensor, "d d"]

    @property
    def is_rank_deficient(self) -> bool:
        """True if the sample is too small for a covariance of full rank."""
        return self.n <= len(self.mean)


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
        """Add a batch of features, one row an image, of any float type; it may be empty.

        Raises:
            ValueError: If the rows are not of the expected length.
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

    def reduce(self) -> None:
        """Add the sums of all processes, so that every process holds the same bits.

        Every process must call, those without images too. Without a process group there is nothing to add.
        """
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
