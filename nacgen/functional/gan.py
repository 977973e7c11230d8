"""Adversarial losses and gradient penalties, one value per image.

Source:
    Goodfellow et al. 2014, arXiv:1406.2661 (non-saturating), Lim & Ye 2017, arXiv:1705.02894 (hinge),
    Jolicoeur-Martineau 2018, arXiv:1807.00734 (relativistic pairing), Mescheder et al. 2018,
    arXiv:1801.04406 (R1), and Huang et al. 2024, arXiv:2501.05441 (RpGAN with R1 and R2).
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
    """RpGAN loss of the discriminator, `softplus(D(fake) - D(real))`, for pairs of images.

    Args:
        logits_real: Logits of real images, one or several heads.
        logits_fake: Logits of the fake image paired with each.

    Returns:
        Zero or more, averaged over heads; `log 2` where the discriminator cannot tell.

    Raises:
        ValueError: The two differ in shape.

    Source:
        Huang et al. 2024, arXiv:2501.05441, equation 2.
    """
    if logits_real.shape != logits_fake.shape:
        raise ValueError(
            f"logits_real and logits_fake must have one shape to be paired, got "
            f"{tuple(logits_real.shape)} and {tuple(logits_fake.shape)}. Draw as many fakes as reals."
        )
    return reduce(F.softplus(logits_fake - logits_real), "b ... -> b", "mean")


def relativistic_generator_loss(
    logits_real: Float[Tensor, "b *n"], logits_fake: Float[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """RpGAN loss of the generator, `softplus(D(real) - D(fake))`: the mirror image.

    Args:
        logits_real: Logits of real images, one or several heads.
        logits_fake: Logits of the fake image paired with each.

    Returns:
        Zero or more, averaged over heads.

    Raises:
        ValueError: The two differ in shape.
    """
    return relativistic_discriminator_loss(logits_fake, logits_real)


def hinge_discriminator_loss(
    logits_real: Float[Tensor, "b *n"], logits_fake: Float[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Hinge loss of the discriminator, `max(0, 1 - D(real)) + max(0, 1 + D(fake))`.

    Args:
        logits_real: Logits of real images, one or several heads.
        logits_fake: Logits of as many generated ones.

    Returns:
        Zero or more, averaged over heads; 2 where the discriminator cannot tell.

    Source:
        Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957, equation 16.
    """
    return reduce(F.relu(1 - logits_real) + F.relu(1 + logits_fake), "b ... -> b", "mean")


def hinge_generator_loss(
    logits_real: Float[Tensor, "b *n"], logits_fake: Float[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Hinge loss of the generator, `-D(fake)`.

    Args:
        logits_real: Not used; all losses are called alike.
        logits_fake: Logits of generated images, one or several heads.

    Returns:
        Any real number, averaged over heads.
    """
    return reduce(-logits_fake, "b ... -> b", "mean")


def non_saturating_discriminator_loss(
    logits_real: Float[Tensor, "b *n"], logits_fake: Float[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Cross-entropy of the discriminator, `softplus(-D(real)) + softplus(D(fake))`.

    Args:
        logits_real: Logits of real images, one or several heads.
        logits_fake: Logits of as many generated ones.

    Returns:
        Nats, zero or more, averaged over heads; `2 log 2` where the discriminator cannot tell.

    Source:
        Goodfellow et al. 2014, arXiv:1406.2661, equation 1.
    """
    return reduce(F.softplus(-logits_real) + F.softplus(logits_fake), "b ... -> b", "mean")


def non_saturating_generator_loss(
    logits_real: Float[Tensor, "b *n"], logits_fake: Float[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Non-saturating loss of the generator, `softplus(-D(fake))`.

    Args:
        logits_real: Not used; all losses are called alike.
        logits_fake: Logits of generated images, one or several heads.

    Returns:
        Nats, zero or more, averaged over heads.

    Source:
        Goodfellow et al. 2014, arXiv:1406.2661, section 3.
    """
    return reduce(F.softplus(-logits_fake), "b ... -> b", "mean")


Loss = Callable[[Tensor, Tensor], Tensor]
ADVERSARIAL_LOSSES: dict[str, tuple[Loss, Loss]] = {  # of the discriminator, of the generator
    "rpgan": (relativistic_discriminator_loss, relativistic_generator_loss),
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
    "non-saturating": (non_saturating_discriminator_loss, non_saturating_generator_loss),
}


def squared_gradient_norm(
    logits: Float[Tensor, "b *n"], images: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Squared norm of the discriminator's gradient at each image, differentiable in its weights.

    The R1 penalty is `gamma / 2` times its mean over real images, R2 the same over fake ones. Exact only
    for a discriminator that treats images separately (no batch statistics).

    Args:
        logits: Discriminator output for `images`, which must require gradients; of several heads the sum is
            differentiated.
        images: The images it was computed from.

    Returns:
        Zero or more.

    Source:
        Mescheder et al. 2018, arXiv:1801.04406, equation 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return reduce(gradient.square(), "b c h w -> b", "sum")


def overfitting(
    logits_train: Float[Tensor, " n"],
    logits_held_out: Float[Tensor, " m"],
    logits_fake: Float[Tensor, " k"],
) -> Float[Tensor, ""]:
    """Where the discriminator's mean logit for unseen real images lies between training images and fakes.

    Args:
        logits_train: Logits of images that it trains on.
        logits_held_out: Logits of real images that it does not train on.
        logits_fake: Logits of generated images.

    Returns:
        0 where held-out images look like training images, 1 where they look generated: it has learned
        its training images by heart.

    Source:
        `r_v` of Karras et al. 2020, arXiv:2006.06676, equation 1.
    """
    train, held_out, fake = logits_train.mean(), logits_held_out.mean(), logits_fake.mean()
    return (train - held_out) / (train - fake)


def great_circle(
    start: Float[Tensor, " z"], end: Float[Tensor, " z"], num_points: int
) -> Float[Tensor, "n z"]:
    """Latents from one to another at even angles, whose lengths stay those of a normal draw.

    Args:
        start: Latent at the first point.
        end: Latent at the last point; not opposite to the first.
        num_points: Two or more.

    Returns:
        The points, ends included; their directions follow the great circle, lengths change linearly.

    Raises:
        ValueError: There are fewer than two points.

    Source:
        Shoemake 1985, doi:10.1145/325165.325242.
    """
    if num_points < 2:
        raise ValueError(
            f"num_points must be two or more, got {num_points}. The ends are points themselves."
        )
    a, b = F.normalize(start, dim=0), F.normalize(end, dim=0)
    angle = torch.arccos((a @ b).clamp(-1, 1))
    processes = torch.linspace(0, 1, num_points, dtype=start.dtype, device=start.device)[:, None]
    length = (1 - processes) * start.norm() + processes * end.norm()
    if angle < 1e-4:  # one direction
        directions = a.expand(num_points, -1)
    else:
        mixed = torch.sin((1 - processes) * angle) * a + torch.sin(processes * angle) * b
        directions = mixed / torch.sin(angle)
    points: Tensor = directions * length
    return points
