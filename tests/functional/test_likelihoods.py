import math

import pytest
import torch
from einops import rearrange
from torch import Tensor
from torch.distributions import Normal

from nacgen.data.pixels import to_float
from nacgen.functional.likelihoods import (
    expected_squared_error,
    gaussian_log_likelihood,
    logistic_mixture_channels,
    logistic_mixture_log_likelihood,
    logistic_mixture_mean,
)
from tests.reference import vae as reference

EVERY_VALUE = torch.arange(256) / 127.5 - 1  # as to_float makes them


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gray(values: Tensor, channels: int = 1) -> Tensor:
    """One image of one pixel for each value."""
    return values.reshape(-1, 1, 1, 1).expand(-1, channels, 1, 1)


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 0.3), (-0.99, 0.1), (1.7, 0.2), (0.3, 0.004)])
def test_a_gaussian_pixel_is_a_distribution_over_256_values(mean: float, sigma: float) -> None:
    images = gray(EVERY_VALUE)
    log_p = gaussian_log_likelihood(images, torch.full_like(images, mean), torch.tensor(sigma**2))
    assert log_p.double().exp().sum().item() == pytest.approx(1, abs=1e-4)
    expected = [reference.gaussian_probability(value, mean, sigma) for value in range(256)]
    torch.testing.assert_close(log_p.exp(), torch.tensor(expected), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_pixel_of_logistics_is_a_distribution_over_all_its_values(channels: int) -> None:
    """With two channels over 256 * 256 colours, whose second depends on the first."""
    count = logistic_mixture_channels(10, channels)
    outputs = draw(1, count, 1, 1)
    grid = torch.cartesian_prod(*[EVERY_VALUE] * channels).reshape(-1, channels, 1, 1)
    log_p = logistic_mixture_log_likelihood(grid, outputs.expand(len(grid), -1, -1, -1))
    assert log_p.double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_pixel_of_logistics_is_the_papers_formula() -> None:
    parts = draw(2, 10)  # two components
    parts[:, 4:7] -= 3  # narrow ones
    outputs = rearrange(parts, "m p -> 1 (m p) 1 1")
    weights, means = parts[:, 0].softmax(0), parts[:, 1:4]
    for pixel in ([0, 255, 7], [130, 128, 126], [255, 0, 0]):
        image = to_float(torch.tensor(pixel, dtype=torch.uint8).reshape(1, 3, 1, 1))
        expected = reference.logistic_mixture_probability(
            pixel,
            weights.tolist(),
            means.tolist(),
            parts[:, 4:7].tolist(),
            parts[:, 7:].tanh().tolist(),
        )
        found = logistic_mixture_log_likelihood(image, outputs)
        assert found.item() == pytest.approx(math.log(expected), abs=1e-3), pixel


def test_pixels_are_independent_and_images_apart() -> None:
    images = to_float(torch.randint(256, (3, 3, 4, 5), dtype=torch.uint8))
    outputs = draw(3, 100, 4, 5)
    whole = logistic_mixture_log_likelihood(images, outputs)
    parts = [
        logistic_mixture_log_likelihood(images[:, :, i : i + 1], outputs[:, :, i : i + 1])
        for i in range(4)
    ]
    torch.testing.assert_close(whole, sum(parts))
    mean, variance = draw(3, 3, 4, 5), torch.tensor(0.1)
    one = [gaussian_log_likelihood(images[[i]], mean[[i]], variance) for i in range(3)]
    torch.testing.assert_close(gaussian_log_likelihood(images, mean, variance), torch.cat(one))


@pytest.mark.parametrize("offset", [0.0, 3.0, 1e3])
def test_gradients_stay_finite_far_away(offset: float) -> None:
    images = gray(EVERY_VALUE, 3)
    mean = torch.full_like(images, offset).requires_grad_()
    gaussian_log_likelihood(images, mean, torch.tensor(0.01)).sum().backward()
    assert mean.grad is not None
    assert mean.grad.isfinite().all()
    outputs = (draw(256, 100, 1, 1) + offset).requires_grad_()
    logistic_mixture_log_likelihood(images, outputs).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_expectation_maximisation_finds_the_variance_of_greatest_likelihood() -> None:
    """With means beyond black and white, where the mean squared error is far from it."""
    mean = 1.5 * draw(400, 1, 4, 4)
    pixels = (mean + 0.3 * draw(400, 1, 4, 4, seed=1)).clamp(-1, 1)
    images = ((127.5 * pixels + 128).floor() - 127.5).div(127.5).clamp(-1, 1)
    variance = torch.tensor(1.0)
    for _ in range(30):
        variance = expected_squared_error(images, mean, variance).mean()
    grid = torch.linspace(0.05, 0.2, 151)
    totals = torch.stack([gaussian_log_likelihood(images, mean, v).sum() for v in grid])
    assert variance.item() == pytest.approx(grid[totals.argmax()].item(), abs=1e-3)
    assert variance.item() == pytest.approx(0.09, rel=0.05)
    assert (images - mean).square().mean() > 2 * variance


def test_rounding_counts_towards_the_variance() -> None:
    images = gray(EVERY_VALUE[1:-1])  # black and white stand for more than a step
    found = expected_squared_error(images, images + 0.1, torch.tensor(1.0))
    torch.testing.assert_close(found, torch.full_like(found, 0.01 + (2 / 255) ** 2 / 12))


def test_expected_pixels_are_those_of_many_draws() -> None:
    """Where nothing is cut off: the mean of a mixture of logistics, its channels tied."""
    parts = 0.1 * draw(3, 10)
    outputs = rearrange(parts, "m p -> 1 (m p) 1 1")
    found = logistic_mixture_mean(outputs)
    weights, (r, g, b), (alpha, beta, gamma) = (
        parts[:, 0].softmax(0),
        parts[:, 1:4].unbind(1),
        parts[:, 7:].tanh().unbind(1),
    )
    g = g + alpha * r
    expected = torch.stack([weights @ r, weights @ g, weights @ (b + beta * r + gamma * g)])
    torch.testing.assert_close(found.flatten(), expected)


def test_the_density_of_a_smooth_gaussian_is_met() -> None:
    images = gray(EVERY_VALUE[64:192])
    mean, sigma = torch.zeros_like(images), torch.tensor(0.7)
    density = Normal(0.0, 0.7).log_prob(images.flatten()) + math.log(2 / 255)
    found = gaussian_log_likelihood(images, mean, sigma**2)
    torch.testing.assert_close(found, density, rtol=0, atol=2e-4)


@pytest.mark.parametrize("value", [1.5, 255.0, float("nan")])
def test_images_outside_of_the_range_are_refused(value: float) -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0, 0, 0] = value
    with pytest.raises(
        ValueError, match=rf"in \[-1, 1\], got values from .* to {value:.4g}\. Bring"
    ):
        gaussian_log_likelihood(images, images, torch.tensor(1.0))
    with pytest.raises(ValueError, match=f"to {value:.4g}"):
        logistic_mixture_log_likelihood(images, torch.zeros(2, 100, 4, 4))


def test_outputs_that_make_no_components_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 10 channels for images of 3, got 99"):
        logistic_mixture_log_likelihood(torch.zeros(1, 3, 2, 2), torch.zeros(1, 99, 2, 2))
