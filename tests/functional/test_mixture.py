import pytest
import torch
from torch import Tensor

from nacgen.functional.mixture import GaussianMixture

sklearn_mixture = pytest.importorskip("sklearn.mixture")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(n: int = 600) -> Tensor:
    """Three clusters of different shapes in the plane."""
    scales = torch.tensor([[1.0, 0.1], [0.3, 0.3], [0.1, 0.8]])
    centers = torch.tensor([[-4.0, 0.0], [0.0, 3.0], [5.0, -1.0]])
    kind = torch.arange(n) % 3
    return centers[kind] + scales[kind] * torch.randn(n, 2, generator=generator())


def test_the_fit_is_that_of_scikit_learn() -> None:
    points = clusters()
    found = GaussianMixture.fit(points, 3, generator(), regularization=1e-6)
    expected = sklearn_mixture.GaussianMixture(3, reg_covar=1e-6, random_state=0)
    expected.fit(points.double().numpy())
    assert found.log_density(points).mean().item() == pytest.approx(
        expected.score(points.double().numpy()), abs=1e-3
    )
    order, theirs = found.means[:, 0].argsort(), expected.means_[:, 0].argsort()
    torch.testing.assert_close(
        found.means[order], torch.from_numpy(expected.means_[theirs]), rtol=0, atol=1e-2
    )


def test_the_density_is_that_of_scikit_learn() -> None:
    points = torch.randn(50, 4, generator=generator(1))
    found = GaussianMixture.fit(points, 2, generator())
    theirs = sklearn_mixture.GaussianMixture(2)
    theirs.weights_, theirs.means_ = found.weights.numpy(), found.means.numpy()
    inverse = torch.linalg.inv(found.factors).mT
    theirs.precisions_cholesky_ = inverse.contiguous().numpy()
    expected = torch.from_numpy(theirs.score_samples(points.double().numpy()))
    torch.testing.assert_close(found.log_density(points), expected)


def test_one_component_is_mean_and_covariance() -> None:
    points = clusters()
    found = GaussianMixture.fit(points, 1, generator(), regularization=0.0)
    covariance = found.factors[0] @ found.factors[0].mT
    torch.testing.assert_close(covariance, points.double().T.cov(correction=0))
    torch.testing.assert_close(found.means[0], points.double().mean(0))


def test_transported_points_are_distributed_as_the_mixture() -> None:
    points = clusters()
    mixture = GaussianMixture.fit(points, 3, generator())
    draw = generator(2)
    made = mixture.transport(torch.rand(6000, generator=draw), torch.randn(6000, 2, generator=draw))
    torch.testing.assert_close(made.mean(0), points.double().mean(0), rtol=0, atol=0.15)
    torch.testing.assert_close(made.T.cov(), points.double().T.cov(), rtol=0.1, atol=0.1)
    assert mixture.log_density(made).mean() == pytest.approx(
        mixture.log_density(points).mean().item(), abs=0.05
    )


def test_equal_points_and_the_same_generator() -> None:
    same = GaussianMixture.fit(torch.ones(5, 2), 3, generator())
    assert same.log_density(torch.ones(1, 2)).isfinite().all()
    a, b = (GaussianMixture.fit(clusters(), 3, generator(4)) for _ in range(2))
    assert torch.equal(a.factors, b.factors)


def test_more_components_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="got 10 components and 4 points, 0 of them"):
        GaussianMixture.fit(torch.zeros(4, 2), 10, generator())
    points = torch.zeros(20, 2)
    points[3, 1] = torch.nan
    with pytest.raises(ValueError, match="20 points, 1 of them not finite"):
        GaussianMixture.fit(points, 10, generator())
