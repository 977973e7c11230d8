"""Flow matching against Gaussian data, whose velocity field and flow have closed forms."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nacgen.functional.flow import flow_matching_loss, integrate_flow, straight_path

MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
FACTOR = torch.tensor([[1.5, 0, 0], [0.4, 0.3, 0], [-0.2, 0.1, 0.6]], dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T


def gaussian_velocity(points: Tensor, time: Tensor) -> Tensor:
    """The mean of `e - x` given `(1 - t) x + t e`, for `x` from N(MEAN, COVARIANCE) and standard normal `e`."""
    identity = torch.eye(3, dtype=torch.float64)
    t = time[0]
    with_point = t * identity - (1 - t) * COVARIANCE  # covariance of e - x and the point
    of_point = t**2 * identity + (1 - t) ** 2 * COVARIANCE
    return (points - (1 - t) * MEAN) @ torch.linalg.solve(of_point, with_point) - MEAN


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_path_leads_from_images_to_noise_at_the_velocity_of_the_loss() -> None:
    images, noise = normal(2, 3, 4, 4), normal(4, 3, 4, 4)[2:]
    assert torch.equal(straight_path(images, noise, torch.zeros(2)), images)
    assert torch.equal(straight_path(images, noise, torch.ones(2)), noise)
    now, then = (torch.tensor([t, t / 2], dtype=torch.float64) for t in (0.4, 0.8))
    moved = straight_path(images, noise, then) - straight_path(images, noise, now)
    velocity = moved / (then - now).reshape(2, 1, 1, 1)
    torch.testing.assert_close(flow_matching_loss(velocity, images, noise), torch.zeros(2).double())
    off = velocity + torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1)
    expected = torch.tensor([1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(flow_matching_loss(off, images, noise), expected)


def test_the_loss_is_least_at_the_known_velocity_of_gaussian_data() -> None:
    """Its gradient there by the field's constant and linear part is 0."""
    number, t = 400_000, torch.tensor([0.3], dtype=torch.float64)
    draws = normal(2 * number, 3)
    images, noise = draws[:number] @ FACTOR.T + MEAN, draws[number:]
    as_images = [x.reshape(number, 3, 1, 1) for x in (images, noise)]
    points = straight_path(*as_images, t.expand(number)).reshape(number, 3)
    constant, linear = torch.zeros(3).double(), torch.zeros(3, 3).double()
    constant.requires_grad_(), linear.requires_grad_()
    field = gaussian_velocity(points, t) + constant + points @ linear
    loss = flow_matching_loss(field.reshape(number, 3, 1, 1), *as_images).mean()
    for gradient in torch.autograd.grad(loss, [constant, linear]):
        assert gradient.abs().max() < 0.01


def end_of_flow(num_steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what the integrator makes of standard normal noise with the known field."""
    points = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    mean, *rows = integrate_flow(gaussian_velocity, points, num_steps)
    matrix = torch.stack(rows) - mean
    return mean, matrix.T @ matrix


def test_the_known_velocity_gives_mean_and_covariance_with_an_error_of_second_order() -> None:
    torch.testing.assert_close(end_of_flow(20)[0], MEAN)  # whose way is straight
    errors = [(end_of_flow(n)[1] - COVARIANCE).norm() / COVARIANCE.norm() for n in (20, 40, 80)]
    assert errors[0] < 0.02
    for coarse, fine in pairwise(errors):
        assert 3.6 < coarse / fine < 4.4


def test_a_constant_velocity_is_followed_exactly() -> None:
    noise, images = normal(4, 3, 2, 2), normal(8, 3, 2, 2)[4:]
    found = integrate_flow(lambda points, time: noise - images, noise, num_steps=1)
    torch.testing.assert_close(found, images)


def test_heuns_method_is_called_at_both_ends_of_every_step() -> None:
    times: list[float] = []

    def velocity(points: Tensor, time: Tensor) -> Tensor:
        times.append(time.tolist()[0])
        return torch.zeros_like(points)

    assert torch.equal(integrate_flow(velocity, normal(2, 3), 2), normal(2, 3))
    assert times == [1.0, 0.5, 0.5, 0.0]


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps must be one or more, got 0"):
        integrate_flow(gaussian_velocity, normal(2, 3), 0)
