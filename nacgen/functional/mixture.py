"""A Gaussian mixture fitted by expectation-maximization, a better prior for a trained decoder.

Source: Dempster, Laird & Rubin 1977; Ghosh et al. 2020, arXiv:1903.12436 (fitted to latents after training).
"""

import math
from typing import NamedTuple, Self

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Float64
from torch import Tensor

TOLERANCE = 1e-4  # nats per point; a smaller gain ends the fit
MOST_ITERATIONS = 100


class GaussianMixture(NamedTuple):
    """A mixture of Gaussians with full covariances.

    Example:
        >>> mixture = GaussianMixture.fit(torch.randn(100, 2), 3, torch.Generator())
        >>> mixture.log_density(torch.zeros(1, 2)).shape
        torch.Size([1])
    """

    weights: Float64[Tensor, " m"]  # their sum is one
    means: Float64[Tensor, "m z"]
    factors: Float64[Tensor, "m z z"]  # lower triangular Cholesky factors of the covariances

    @classmethod
    def fit(
        cls,
        points: Float[Tensor, "n z"],
        num_components: int,
        generator: torch.Generator,
        regularization: float = 1e-3,
    ) -> Self:
        """Fit a mixture to points of any device, in float64 on the CPU.

        The draws choose distant initial points (k-means++); `regularization` is added to all variances.

        Raises:
            ValueError: If points are fewer than components, or if a point is not finite.
        """
        rows = points.detach().cpu().double()
        if not 1 <= num_components <= len(rows) or not bool(rows.isfinite().all()):
            raise ValueError(
                f"a mixture of one component or more needs as many finite points, got {num_components} components "
                f"and {len(rows)} points, {int((~rows.isfinite()).any(dim=1).sum())} of them not finite."
            )
        means = _distant_points(rows, num_components, generator)
        nearest = torch.cdist(rows, means).argmin(dim=1)
        responsibilities = torch.nn.functional.one_hot(nearest, num_components).double()
        mixture, before = cls._maximize(rows, responsibilities, regularization), -math.inf
        for _ in range(MOST_ITERATIONS):
            log_joint = mixture._log_joint(rows)
            log_density = log_joint.logsumexp(dim=1, keepdim=True)
            now = float(log_density.mean())
            if now - before < TOLERANCE:
                break
            before = now
            mixture = cls._maximize(rows, (log_joint - log_density).exp(), regularization)
        return mixture

    @classmethod
    def _maximize(cls, rows: Tensor, responsibilities: Tensor, regularization: float) -> Self:
        """Return the mixture of greatest expected likelihood, given responsibilities `(n, m)`."""
        counts = responsibilities.sum(dim=0) + 1e-10
        means = einsum(responsibilities, rows, "n m, n z -> m z") / counts[:, None]
        centered = rows[:, None] - means  # -> (n, m, z)
        weighted = rearrange(responsibilities, "n m -> n m 1") * centered
        covariances = einsum(weighted, centered, "n m i, n m j -> m i j")  # never (n, m, z, z)
        covariances = covariances / counts[:, None, None]
        covariances.diagonal(dim1=1, dim2=2).add_(regularization)
        return cls(counts / counts.sum(), means, torch.linalg.cholesky(covariances))

    def _log_joint(self, rows: Tensor) -> Tensor:
        """Return the log-density of each point with each component, `(n, m)`."""
        whitened = torch.linalg.solve_triangular(
            self.factors, (rows - self.means[:, None]).mT, upper=False
        )  # (m, z, n)
        log_volume = self.factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)
        log_density = -0.5 * whitened.square().sum(dim=1).mT - log_volume - constant
        log_joint: Tensor = self.weights.log() + log_density
        return log_joint

    def log_density(self, points: Float[Tensor, "n z"]) -> Float64[Tensor, " n"]:
        """Compute the log-density of each point, in nats."""
        return self._log_joint(points.detach().cpu().double()).logsumexp(dim=1)

    def transport(
        self, uniform: Float[Tensor, " n"], noise: Float[Tensor, "n z"]
    ) -> Float64[Tensor, "n z"]:
        """Turn numbers in [0, 1), which choose components, and standard normal noise into the mixture's points."""
        ends = self.weights.cumsum(dim=0)
        chosen = torch.searchsorted(ends, uniform.double().cpu(), right=True)
        chosen = chosen.clamp(max=len(ends) - 1)  # the last end may be below one by rounding
        offsets = einsum(self.factors[chosen], noise.double().cpu(), "n i j, n j -> n i")
        return self.means[chosen] + offsets


def _distant_points(rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Draw rows with probability proportional to the squared distance from those drawn before."""
    chosen = rows[torch.randint(len(rows), (1,), generator=generator)]
    while len(chosen) < number:
        distances = torch.cdist(rows, chosen).amin(dim=1).square()
        if not bool(distances.any()):  # fewer different points than components
            distances = torch.ones_like(distances)
        drawn = torch.multinomial(distances, 1, generator=generator)
        chosen = torch.cat([chosen, rows[drawn]])
    return chosen
