"""Adversarial losses and gradient penalties, one value per image.

Source:
    Goodfellow et al. 2014, arXiv:1406.2661 (non-saturating), Lim & Ye 2017, arXiv:1705.02894, and Miyato et al.
    2018, arXiv:1802.05957, equation 16 (hinge), Jolicoeur-Martineau 2018, arXiv:1807.00734 (relativistic pairing),
    Mescheder et al. 2018, arXiv:1801.04406 (R1), Huang et al. 2024, arXiv:2501.05441 (RpGAN with R1 and R2).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor


def relativistic_discriminator_loss(
    logits_real: Float[Tensor, "b *n"], logits_fake: Float[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Compute the RpGAN loss of the discriminator, `softplus(D(fake) - D(real))`, for pairs of images.

    There is one loss per pair, averaged over heads; `log 2` if the logits are equal.

    Raises:
        ValueError: If the two differ in shape.

    Example:
        >>> relativistic_discriminator_loss(torch.zeros(2), torch.zeros(2)).exp()
        tensor([2., 2.])

    Source: Huang et al. 2024, arXiv:2501.05441, equation 2.
    """
    if logits_real.shape != logits_fake.shape:
        raise ValueError(
            f"logits_real and logits_fake must have one shape to be paired, got {tuple(logits_real.shape)} and "
            f"{tuple(logits_fake.shape)}. Draw as many fakes as reals."
        )
    return _mean_over_heads(F.softplus(logits_fake - logits_real))


def relativistic_generator_loss(
    logits_real: Float[Tensor, "b *n"], logits_fake: Float[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Compute the RpGAN loss of the generator, `softplus(D(real) - D(fake))`: the mirror image.

    Example:
        >>> relativistic_generator_loss(torch.zeros(2), torch.zeros(2)).exp()
        tensor([2., 2.])
    """
    return relativistic_discriminator_loss(logits_fake, logits_real)


def _mean_over_heads(losses: Tensor) -> Tensor:
    return reduce(losses, "b ... -> b", "mean")


# Losses of the discriminator and of the generator. Each is a function of the logits of real images and of as many
# generated ones, `(b, ...)`, and returns one value per image `(b,)`, averaged over heads.
Loss = Callable[[Tensor, Tensor], Tensor]
ADVERSARIAL_LOSSES: dict[str, tuple[Loss, Loss]] = {
    "rpgan": (relativistic_discriminator_loss, relativistic_generator_loss),
    "hinge": (
        lambda real, fake: _mean_over_heads(F.relu(1 - real) + F.relu(1 + fake)),
        lambda real, fake: _mean_over_heads(-fake),
    ),
    "non-saturating": (  # cross-entropy
        lambda real, fake: _mean_over_heads(F.softplus(-real) + F.softplus(fake)),
        lambda real, fake: _mean_over_heads(F.softplus(-fake)),
    ),
}


def squared_gradient_norm(
    logits: Float[Tensor, "b *n"], images: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Compute the squared norm of the discriminator's gradient at each image, differentiable in its weights.

    The logits are those of `images`, which must require gradients; several heads are summed. The R1 penalty is
    `gamma / 2` times the mean over real images, R2 the same over generated ones. The value is exact only if the
    discriminator treats images separately, without batch statistics.

    Example:
        >>> images = torch.ones(1, 1, 2, 2, requires_grad=True)
        >>> squared_gradient_norm(images.sum().view(1), images).detach()
        tensor([4.])

    Source: Mescheder et al. 2018, arXiv:1801.04406, equation 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return reduce(gradient.square(), "b c h w -> b", "sum")


def overfitting(
    logits_train: Float[Tensor, " n"],
    logits_held_out: Float[Tensor, " m"],
    logits_fake: Float[Tensor, " k"],
) -> Float[Tensor, ""]:
    """Compute the position of the mean logit of unseen real images between training images and generated ones.

    It is 0 if held-out images look like training images, 1 if they look generated: the training set is memorized.

    Example:
        >>> overfitting(torch.ones(4), torch.zeros(4), -torch.ones(4))
        tensor(0.5000)

    Source: `r_v` of Karras et al. 2020, arXiv:2006.06676, equation 1.
    """
    train, held_out, fake = logits_train.mean(), logits_held_out.mean(), logits_fake.mean()
    return (train - held_out) / (train - fake)


def great_circle(
    start: Float[Tensor, " z"], end: Float[Tensor, " z"], num_points: int
) -> Float[Tensor, "n z"]:
    """Interpolate between two latents at even angles, with the lengths of normal draws.

    The points include both ends, which must not be opposite. Lengths change linearly.

    Raises:
        ValueError: If points are fewer than two.

    Example:
        >>> great_circle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3)[1]
        tensor([0.7071, 0.7071])

    Source: Shoemake 1985, doi:10.1145/325165.325242.
    """
    if num_points < 2:
        raise ValueError(
            f"num_points must be two or more, got {num_points}. The ends are points themselves."
        )
    a, b = F.normalize(start, dim=0), F.normalize(end, dim=0)
    angle = torch.arccos((a @ b).clamp(-1, 1))
    fractions = torch.linspace(0, 1, num_points, dtype=start.dtype, device=start.device)[:, None]
    length = (1 - fractions) * start.norm() + fractions * end.norm()
    if angle < 1e-4:  # one direction
        directions = a.expand(num_points, -1)
    else:
        mixed = torch.sin((1 - fractions) * angle) * a + torch.sin(fractions * angle) * b
        directions = mixed / torch.sin(angle)
    points: Tensor = directions * length
    return points
