"""Adversarial losses and gradient penalties, one value per image.

Source:
    Jolicoeur-Martineau 2018, arXiv:1807.00734 (relativistic pairing), Mescheder et al. 2018,
    arXiv:1801.04406 (R1), and Huang et al. 2024, arXiv:2501.05441 (RpGAN with R1 and R2).
"""

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


def squared_gradient_norm(
    logits: Float[Tensor, "b *n"], images: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Squared norm of the discriminator's gradient at each image, differentiable in its weights.

    The R1 penalty is `gamma / 2` times its mean over real images, R2 the same over fake ones. Exact only
    for a discriminator that treats images separately (no batch statistics).

    Args:
        logits: Discriminator output for `images`, which must require gradients.
        images: The images it was computed from.

    Returns:
        Zero or more.

    Source:
        Mescheder et al. 2018, arXiv:1801.04406, equation 9.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return reduce(gradient.square(), "b c h w -> b", "sum")
