"""The terms of a variational autoencoder: divergence from the prior, tighter bounds, active units.

Source:
    Kingma & Welling 2014, arXiv:1312.6114 (the bound); Kingma et al. 2016, arXiv:1606.04934 (free bits);
    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519 (importance weighting, active units).
"""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor


def gaussian_kl_by_axis(
    mean: Float[Tensor, "b z"], log_variance: Float[Tensor, "b z"]
) -> Float[Tensor, "b z"]:
    """KL divergence of a diagonal Gaussian from the standard normal, per image and latent axis.

    Args:
        mean: Posterior means.
        log_variance: Natural logarithm of the posterior variances, any real number.

    Returns:
        Divergence in nats, zero or more.

    Raises:
        ValueError: The two tensors differ in shape.

    Source:
        Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    if mean.shape != log_variance.shape:
        raise ValueError(
            f"mean and log_variance must have one shape, got {tuple(mean.shape)} and "
            f"{tuple(log_variance.shape)}. Split one encoder output in two to get both."
        )
    # expm1: near a collapsed posterior exp(v) - 1 - v would be rounding errors
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)


def gaussian_kl(
    mean: Float[Tensor, "b z"], log_variance: Float[Tensor, "b z"]
) -> Float[Tensor, " b"]:
    """KL divergence of a diagonal Gaussian from the standard normal, per image: the rate.

    Args:
        mean: Posterior means.
        log_variance: Natural logarithm of the posterior variances, any real number.

    Returns:
        Divergence in nats, zero or more, summed over the latent axes.

    Raises:
        ValueError: The two tensors differ in shape.
    """
    return reduce(gaussian_kl_by_axis(mean, log_variance), "b z -> b", "sum")


def free_bits(
    kl_by_axis: Float[Tensor, "b z"], batch_mean: Float[Tensor, " z"], minimum: float
) -> Float[Tensor, " b"]:
    """A divergence that does not press a latent axis below a minimum.

    Averaged over the batch it is `sum_z max(minimum, batch_mean_z)`. The mean is passed, not taken here,
    so that several processes can agree on it.

    Args:
        kl_by_axis: Divergence of each image and latent axis, in nats.
        batch_mean: Its mean over the whole batch, without gradient.
        minimum: Nats that each axis carries for free; 0 gives the plain divergence.

    Returns:
        Nats per image.

    Source:
        Kingma et al. 2016, arXiv:1606.04934, equation 15, each axis a group of its own.
    """
    floor = torch.full_like(kl_by_axis, minimum)
    return reduce(torch.where(batch_mean > minimum, kl_by_axis, floor), "b z -> b", "sum")


def log_importance_weights(
    log_likelihood: Float[Tensor, " n"],
    z: Float[Tensor, "n z"],
    noise: Float[Tensor, "n z"],
    log_variance: Float[Tensor, " z"],
) -> Float[Tensor, " n"]:
    """`log p(x|z) + log p(z) - log q(z|x)` of samples `z = mean + exp(log_variance / 2) noise` of one image.

    Args:
        log_likelihood: Of the image given each sample, in nats.
        z: Samples of its posterior.
        noise: What they were made of.
        log_variance: Of its posterior.

    Returns:
        Nats; their mean estimates the evidence lower bound.
    """
    log_ratio = 0.5 * (noise.square() - z.square() + log_variance)  # the constants cancel
    return log_likelihood + reduce(log_ratio, "n z -> n", "sum")


def importance_bound(log_weights: Float[Tensor, "n b"], num_samples: int) -> Float[Tensor, " b"]:
    """Lower bound of each image's log-likelihood from the mean of several importance weights.

    With one sample it is the evidence lower bound; it rises with their number towards the log-likelihood.

    Args:
        log_weights: As `log_importance_weights` gives them, one row a sample.
        num_samples: Samples in one bound, at most the rows; where the rows hold several such groups, their
            bounds are averaged.

    Returns:
        Nats.

    Raises:
        ValueError: There are fewer rows than samples, or less than one sample is asked for.

    Source:
        Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, equation 8.
    """
    if not 1 <= num_samples <= len(log_weights):
        raise ValueError(
            f"num_samples must be between 1 and the number of rows, {len(log_weights)}, got {num_samples}. "
            "Draw more samples."
        )
    whole = len(log_weights) // num_samples * num_samples
    groups = rearrange(log_weights[:whole], "(g n) b -> g n b", n=num_samples)
    bounds = groups.logsumexp(dim=1) - math.log(num_samples)  # (g, n, b) -> (g, b)
    return reduce(bounds, "g b -> b", "mean")


def active_units(
    mean_variances: Float[Tensor, " z"], threshold: float = 0.01
) -> Bool[Tensor, " z"]:
    """Which latent axes tell images apart: those whose posterior mean varies over images.

    Args:
        mean_variances: Variance of the posterior mean of each axis over images.
        threshold: Least variance of an active axis.

    Returns:
        True for active axes.

    Source:
        Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, section 5.1.
    """
    return mean_variances > threshold


def bits_per_dim(nats: float, num_dims: int) -> float:
    """A negative log-likelihood in bits for each of an image's numbers.

    Args:
        nats: Negative log-likelihood of an image.
        num_dims: Channels times height times width.

    Returns:
        Bits; 8 for a model by which all 256 values are equally likely.

    Raises:
        ValueError: There are no dimensions.
    """
    if num_dims < 1:
        raise ValueError(
            f"num_dims must be 1 or more, got {num_dims}. Give channels * height * width."
        )
    return nats / (num_dims * math.log(2))
