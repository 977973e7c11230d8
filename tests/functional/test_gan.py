import math

import pytest
import torch
from torch import Tensor, nn

from nacgen.functional.gan import (
    ADVERSARIAL_LOSSES,
    great_circle,
    overfitting,
    relativistic_discriminator_loss,
    relativistic_generator_loss,
    squared_gradient_norm,
)
from tests.reference import gan as reference


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def smooth_discriminator(heads: int = 1) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, heads)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("heads", [1, 3])
def test_losses_equal_the_paper_written_as_loops(heads: int) -> None:
    real, fake = 3 * draws(6, heads), 3 * draws(6, heads, seed=1)
    discriminator = reference.discriminator_loss(real.tolist(), fake.tolist())
    generator = reference.generator_loss(real.tolist(), fake.tolist())
    assert relativistic_discriminator_loss(real, fake).tolist() == pytest.approx(discriminator)
    assert relativistic_generator_loss(real, fake).tolist() == pytest.approx(generator)
    if heads == 1:  # a discriminator with one head gives (b,)
        flat = relativistic_discriminator_loss(real[:, 0], fake[:, 0])
        assert flat.tolist() == pytest.approx(discriminator)


@pytest.mark.parametrize("name", ["hinge", "non-saturating"])
@pytest.mark.parametrize("heads", [1, 3])
def test_classic_losses_equal_the_papers_written_as_loops(name: str, heads: int) -> None:
    real, fake = 3 * draws(6, heads), 3 * draws(6, heads, seed=1)
    discriminator, generator = ADVERSARIAL_LOSSES[name]
    expected = reference.classic_losses(name, real.tolist(), fake.tolist())
    assert discriminator(real, fake).tolist() == pytest.approx(expected[0])
    assert generator(real, fake).tolist() == pytest.approx(expected[1])
    if heads == 1:
        assert discriminator(real[:, 0], fake[:, 0]).tolist() == pytest.approx(expected[0])
        assert generator(real[:, 0], fake[:, 0]).tolist() == pytest.approx(expected[1])


@pytest.mark.parametrize("name", ["hinge", "non-saturating"])
def test_classic_losses_are_finite_and_correct_to_first_order(name: str) -> None:
    for loss in ADVERSARIAL_LOSSES[name]:
        pair = draws(4, 2).requires_grad_(), draws(4, 2, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(loss, pair)
        for size in (1e4, 1e30):
            real = torch.tensor([size, -size]).requires_grad_()
            fake = torch.tensor([size, -size]).requires_grad_()
            value = loss(real, fake)
            value.sum().backward()
            assert value.isfinite().all()
            assert fake.grad is not None
            assert fake.grad.isfinite().all()


def test_a_hinge_is_satisfied_beyond_its_margin() -> None:
    discriminator, _ = ADVERSARIAL_LOSSES["hinge"]
    real, fake = torch.tensor([1.5, 0.0]).requires_grad_(), torch.tensor([-1.5, 0.0])
    loss = discriminator(real, fake)
    assert loss.tolist() == [0, 2]
    loss.sum().backward()
    assert real.grad is not None
    assert real.grad.tolist() == [0, -1]


def test_overfitting_runs_from_none_to_all() -> None:
    train, fake = torch.tensor([1.0, 3.0]), torch.tensor([-4.0, -4.0, -4.0])
    for held_out, expected in ((2.0, 0.0), (-1.0, 0.5), (-4.0, 1.0)):
        logits = torch.tensor([held_out - 1, held_out + 1])
        assert overfitting(train, logits, fake).item() == pytest.approx(expected)
        # RpGAN leaves the logits' mean open
        shifted = overfitting(train + 7, logits + 7, fake + 7)
        assert shifted.item() == pytest.approx(expected)


def test_a_great_circle_keeps_lengths_and_even_angles() -> None:
    start, end = draws(16), draws(16, seed=1)
    end = end * start.norm() / end.norm()
    points = great_circle(start, end, 5)
    torch.testing.assert_close(points[0], start)
    torch.testing.assert_close(points[-1], end)
    torch.testing.assert_close(points.norm(dim=1), start.norm().expand(5))
    cosines = torch.nn.functional.cosine_similarity(points[1:], points[:-1])
    torch.testing.assert_close(cosines, cosines[:1].expand(4))
    middle = start + end  # by symmetry
    torch.testing.assert_close(points[2], middle * start.norm() / middle.norm())


def test_a_great_circle_between_one_direction_is_a_line() -> None:
    start = draws(4)
    torch.testing.assert_close(great_circle(start, 3 * start, 3)[1], 2 * start)
    with pytest.raises(ValueError, match="two or more, got 1"):
        great_circle(start, start, 1)


def test_the_generator_loss_is_the_mirror_image() -> None:
    real, fake = draws(5, 2), draws(5, 2, seed=1)
    mirrored = relativistic_discriminator_loss(fake, real)
    assert torch.equal(relativistic_generator_loss(real, fake), mirrored)
    # softplus(t) - softplus(-t) = t: together they say how far apart the logits are
    gap = relativistic_generator_loss(real, fake) - relativistic_discriminator_loss(real, fake)
    torch.testing.assert_close(gap, (real - fake).mean(1))


def test_only_the_difference_of_a_pair_counts() -> None:
    real, fake = draws(5), draws(5, seed=1)
    for loss in (relativistic_discriminator_loss, relativistic_generator_loss):
        torch.testing.assert_close(loss(real + 7, fake + 7), loss(real, fake))


def test_equal_logits_cost_log_2() -> None:
    logits = draws(5, 2)
    for loss in (relativistic_discriminator_loss, relativistic_generator_loss):
        assert loss(logits, logits).tolist() == pytest.approx([math.log(2)] * 5)


def test_each_player_pulls_its_own_way() -> None:
    for loss, sign in ((relativistic_discriminator_loss, 1), (relativistic_generator_loss, -1)):
        real, fake = draws(5).requires_grad_(), draws(5, seed=1).requires_grad_()
        loss(real, fake).sum().backward()
        assert real.grad is not None
        assert fake.grad is not None
        assert (sign * real.grad < 0).all()  # the discriminator raises real logits
        assert torch.equal(fake.grad, -real.grad)


def test_losses_are_correct_to_second_order() -> None:
    pair = draws(4, 2).requires_grad_(), draws(4, 2, seed=1).requires_grad_()
    for loss in (relativistic_discriminator_loss, relativistic_generator_loss):
        assert torch.autograd.gradcheck(loss, pair)
        assert torch.autograd.gradgradcheck(loss, pair)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_losses_and_gradients_stay_finite_at_extreme_logits(size: float) -> None:
    for loss in (relativistic_discriminator_loss, relativistic_generator_loss):
        real = torch.tensor([size, -size]).requires_grad_()
        value = loss(real, -real.detach())
        value.sum().backward()
        assert real.grad is not None
        assert real.grad.isfinite().all()
        assert sorted(value.tolist()) == pytest.approx([0.0, 2 * size])


def test_logits_that_do_not_pair_are_named(as_users_run_it: None) -> None:
    for loss, shapes in (
        (relativistic_discriminator_loss, r"\(4,\) and \(3,\)"),
        (relativistic_generator_loss, r"\(3,\) and \(4,\)"),
    ):
        with pytest.raises(ValueError, match=f"got {shapes}. Draw as many fakes"):
            loss(draws(4), draws(3))


def test_gradient_norm_of_a_linear_function_is_that_of_its_weights() -> None:
    weight = draws(3, 4, 4).requires_grad_()
    images = draws(5, 3, 4, 4, seed=1).requires_grad_()
    norms = squared_gradient_norm((images * weight).sum((1, 2, 3)) + 2, images)
    assert norms.tolist() == pytest.approx([weight.square().sum().item()] * 5)
    (gradient,) = torch.autograd.grad(norms.mean(), weight)
    torch.testing.assert_close(gradient, 2 * weight)  # the penalty trains the weights


def test_gradient_norm_of_a_quadratic_function_is_that_of_the_image() -> None:
    scale, images = draws(1).requires_grad_(), draws(5, 3, 4, 4, seed=1).requires_grad_()
    norms = squared_gradient_norm(scale / 2 * images.square().sum((1, 2, 3)), images)
    sizes = images.square().sum((1, 2, 3))
    torch.testing.assert_close(norms, scale**2 * sizes)
    (by_scale,) = torch.autograd.grad(norms.sum(), scale, retain_graph=True)
    torch.testing.assert_close(by_scale, 2 * scale * sizes.sum())
    (by_image,) = torch.autograd.grad(norms.sum(), images)
    torch.testing.assert_close(by_image, 2 * scale**2 * images)


@pytest.mark.parametrize("heads", [1, 2])
def test_gradient_norm_is_that_of_each_image_alone(heads: int) -> None:
    discriminator = smooth_discriminator(heads)
    images = draws(3, 3, 4, 4).requires_grad_()
    norms = squared_gradient_norm(discriminator(images), images)
    for image, norm in zip(images, norms, strict=True):
        alone = image.detach()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(alone).sum(), alone)
        torch.testing.assert_close(norm, gradient.square().sum())

        def value(pixels: list[float]) -> float:
            image = torch.tensor(pixels, dtype=torch.float64).view(1, 3, 4, 4)
            return discriminator(image).sum().item()

        slow = reference.squared_gradient_norm(value, image.flatten().tolist())
        assert norm.item() == pytest.approx(slow, rel=1e-6)


def test_gradient_penalty_has_the_right_gradient_in_the_weights() -> None:
    discriminator = smooth_discriminator()
    images = draws(2, 3, 4, 4).requires_grad_()
    names = [name for name, _ in discriminator.named_parameters()]

    def penalty(*weights: Tensor) -> Tensor:
        parameters = dict(zip(names, weights, strict=True))
        logits = torch.func.functional_call(discriminator, parameters, (images,))
        return squared_gradient_norm(logits[:, 0], images)

    weights = tuple(p.detach().clone().requires_grad_() for p in discriminator.parameters())
    weights = (*weights[:-1], weights[-1].detach())  # no gradient depends on the last bias
    assert torch.autograd.gradcheck(penalty, weights)
