"""A Gaussian mixture fitted by expectation-maximisation, a better prior for a trained decoder.

Source:
    Dempster, Laird & Rubin 1977; Ghosh et al. 2020, arXiv:1903.12436 (fitted to latents after training).
"""

import math
from typing import NamedTuple, Self

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Float64
from torch import Tensor

TOLERANCE = 1e-4  # nats a point; a smaller gain ends the fit


class GaussianMixture(NamedTuple):
    """A mixture of Gaussians with full covariances.

    Args:
        weights: Of the components, adding up to one.
        means: Of the components.
        factors: Lower triangular Cholesky factors of their covariances.
    """

    weights: Float64[Tensor, " m"]
    means: Float64[Tensor, "m z"]
    factors: Float64[Tensor, "m z z"]

    @classmethod
    def fit(
        cls,
        points: Float[Tensor, "n z"],
        num_components: int,
        generator: torch.Generator,
        regularization: float = 1e-3,
        num_iterations: int = 100,
    ) -> Self:
        """Fit a mixture to points.

        Args:
            points: On any device.
            num_components: Of the mixture.
            generator: Chooses the points to start from, far from one another (k-means++).
            regularization: Added to the covariances' diagonals.
            num_iterations: At most; fewer where the likelihood rises no more.

        Returns:
            The mixture, in float64 on the CPU.

        Raises:
            ValueError: There are fewer points than components, or a point is not finite.
        """
        rows = points.detach().cpu().double()
        if not 1 <= num_components <= len(rows) or not bool(rows.isfinite().all()):
            raise ValueError(
                f"a mixture of one component or more needs as many finite points, got {num_components} components "
                f"and {len(rows)} points, {int((~rows.isfinite()).any(dim=1).sum())} of them not finite."
            )
        means = _distant_points(rows, num_components, generator)
        nearest = torch.cdist(rows, means).argmin(dim=1)
        shares = torch.nn.functional.one_hot(nearest, num_components).double()
        mixture, before = cls._maximize(rows, shares, regularization), -math.inf
        for _ in range(num_iterations):
            log_joint = mixture._log_joint(rows)
            log_density = log_joint.logsumexp(dim=1, keepdim=True)
            now = float(log_density.mean())
            if now - before < TOLERANCE:
                break
            before = now
            mixture = cls._maximize(rows, (log_joint - log_density).exp(), regularization)
        return mixture

    @classmethod
    def _maximize(cls, rows: Tensor, shares: Tensor, regularization: float) -> Self:
        """The mixture of greatest expected likelihood, given each component's share of each point `(n, m)`."""
        counts = shares.sum(dim=0) + 1e-10
        means = einsum(shares, rows, "n m, n z -> m z") / counts[:, None]
        centered = rows[:, None] - means  # -> (n, m, z)
        shared = rearrange(shares, "n m -> n m 1") * centered
        covariances = einsum(shared, centered, "n m i, n m j -> m i j")  # never (n, m, z, z)
        covariances = covariances / counts[:, None, None]
        covariances.diagonal(dim1=1, dim2=2).add_(regularization)
        return cls(counts / counts.sum(), means, torch.linalg.cholesky(covariances))

    def _log_joint(self, rows: Tensor) -> Tensor:
        """Log-density of each point with each component, `(n, m)`."""
        whitened = torch.linalg.solve_triangular(
            self.factors, (rows - self.means[:, None]).mT, upper=False
        )  # (m, z, n)
        log_volume = self.factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)
        log_density = -0.5 * whitened.square().sum(dim=1).mT - log_volume - constant
        log_joint: Tensor = self.weights.log() + log_density
        return log_joint

    def log_density(self, points: Float[Tensor, "n z"]) -> Float64[Tensor, " n"]:
        """Log-density of points.

        Args:
            points: On any device.

        Returns:
            Nats.
        """
        return self._log_joint(points.detach().cpu().double()).logsumexp(dim=1)

    def transport(
        self, uniform: Float[Tensor, " n"], noise: Float[Tensor, "n z"]
    ) -> Float64[Tensor, "n z"]:
        """Points of the mixture from uniform and standard normal numbers.

        Args:
            uniform: In [0, 1), chooses each point's component.
            noise: Standard normal.

        Returns:
            Points distributed as the mixture.
        """
        ends = self.weights.cumsum(dim=0)
        chosen = torch.searchsorted(ends, uniform.double().cpu(), right=True)
        chosen = chosen.clamp(max=len(ends) - 1)  # the ends add up to one but for rounding
        offsets = einsum(self.factors[chosen], noise.double().cpu(), "n i j, n j -> n i")
        return self.means[chosen] + offsets


def _distant_points(rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Points of a set, each drawn with probability proportional to its squared distance from those before."""
    chosen = rows[torch.randint(len(rows), (1,), generator=generator)]
    while len(chosen) < number:
        distances = torch.cdist(rows, chosen).amin(dim=1).square()
        if not bool(distances.any()):  # fewer different points than components
            distances = torch.ones_like(distances)
        drawn = torch.multinomial(distances, 1, generator=generator)
        chosen = torch.cat([chosen, rows[drawn]])
    return chosen
