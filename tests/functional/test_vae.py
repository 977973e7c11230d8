"""The bounds of a linear-Gaussian model, whose evidence is known, and the parts they are made of."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from nacgen.functional.vae import (
    bits_per_dim,
    free_bits,
    gaussian_kl_by_axis,
    importance_bound,
    log_importance_weights,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_that_of_torch_distributions() -> None:
    mean, log_variance = draw(5, 3), draw(5, 3, seed=1)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl_by_axis(mean, log_variance), expected)


def test_the_divergence_is_exact_near_a_collapsed_posterior() -> None:
    mean, log_variance = torch.tensor([[0.0]]), torch.tensor([[1e-3]])
    assert gaussian_kl_by_axis(mean, log_variance).item() == pytest.approx(1e-6 / 4, rel=1e-2)


def test_the_divergence_needs_one_shape(as_users_run_it: None) -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2, 4\)"):
        gaussian_kl_by_axis(torch.zeros(2, 3), torch.zeros(2, 4))


def test_free_bits_are_the_larger_of_minimum_and_batch_mean() -> None:
    kl = draw(6, 4).square().requires_grad_()
    mean = kl.detach().mean(0)
    minimum = float(mean.sort().values[1:3].mean())  # two axes below, two above
    loss = free_bits(kl, mean, minimum).mean()
    assert loss.item() == pytest.approx(mean.clamp(min=minimum).sum().item(), rel=1e-6)
    loss.backward()
    assert kl.grad is not None
    torch.testing.assert_close(kl.grad, (mean > minimum).float().expand(6, 4) / 6)
    torch.testing.assert_close(free_bits(kl, mean, 0.0), kl.sum(1))


class LinearGaussian:
    """`x = W z + noise`, whose evidence and posterior are Gaussians in closed form."""

    def __init__(self) -> None:
        self.weight, self.sigma = draw(5, 2).double(), 0.5
        self.covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(5).double()
        self.x = self.weight @ draw(2, seed=3).double() + self.sigma * draw(5, seed=4).double()
        evidence = MultivariateNormal(torch.zeros(5).double(), self.covariance)
        self.log_evidence = evidence.log_prob(self.x)
        precision = torch.eye(2).double() + self.weight.T @ self.weight / self.sigma**2
        self.posterior_mean = precision.inverse() @ self.weight.T @ self.x / self.sigma**2
        self.variance = (
            2 * precision.inverse().diagonal()
        )  # wrong, so that the bounds are not tight

    def log_weights(self, n: int) -> Tensor:
        noise = draw(n, 2, seed=2).double()
        z = self.posterior_mean + self.variance.sqrt() * noise
        log_likelihood = Normal(z @ self.weight.T, self.sigma).log_prob(self.x).sum(1)
        return log_importance_weights(log_likelihood, z, noise, self.variance.log())


def test_importance_weights_are_the_ratio_of_densities() -> None:
    model = LinearGaussian()
    noise = draw(7, 2, seed=2).double()
    z = model.posterior_mean + model.variance.sqrt() * noise
    proposal = Normal(model.posterior_mean, model.variance.sqrt()).log_prob(z).sum(1)
    prior = Normal(torch.zeros(2).double(), 1.0).log_prob(z).sum(1)
    likelihood = Normal(z @ model.weight.T, model.sigma).log_prob(model.x).sum(1)
    torch.testing.assert_close(model.log_weights(7), likelihood + prior - proposal)


def test_bounds_rise_with_samples_to_the_evidence_of_a_linear_gaussian_model() -> None:
    model = LinearGaussian()
    log_weights = model.log_weights(200_000)[:, None]
    bounds = [importance_bound(log_weights, k).item() for k in (1, 8, 64, 1_000, 200_000)]
    assert bounds == sorted(bounds)
    assert bounds[0] < model.log_evidence - 0.2
    assert bounds[3] == pytest.approx(model.log_evidence.item(), abs=5e-3)
    assert bounds[4] == pytest.approx(model.log_evidence.item(), abs=5e-3)


def test_one_sample_gives_the_evidence_lower_bound() -> None:
    log_weights = draw(10, 3)
    torch.testing.assert_close(importance_bound(log_weights, 1), log_weights.mean(0))
    expected = log_weights.logsumexp(0) - math.log(10)
    torch.testing.assert_close(importance_bound(log_weights, 10), expected)
    first, second = log_weights[:4].exp().mean(0).log(), log_weights[4:8].exp().mean(0).log()
    torch.testing.assert_close(importance_bound(log_weights, 4), (first + second) / 2)


@pytest.mark.parametrize("number", [0, 11])
def test_a_bound_needs_as_many_samples(number: int) -> None:
    with pytest.raises(ValueError, match=f"number of rows, 10, got {number}"):
        importance_bound(draw(10, 3), number)


def test_a_uniform_model_has_eight_bits_per_dimension() -> None:
    assert bits_per_dim(3 * 32 * 32 * math.log(256), 3 * 32 * 32) == pytest.approx(8)
