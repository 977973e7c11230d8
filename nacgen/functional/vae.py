"""Terms of a variational autoencoder: divergence from the prior, tighter bounds.

Source:
    Kingma & Welling 2014, arXiv:1312.6114 (the bound); Kingma et al. 2016, arXiv:1606.04934 (free bits);
    Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519 (importance weighting).
"""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor


def gaussian_kl_by_axis(
    mean: Float[Tensor, "b z"], log_variance: Float[Tensor, "b z"]
) -> Float[Tensor, "b z"]:
    """Compute the KL divergence of diagonal Gaussians from the standard normal, per image and axis, in nats.

    Raises:
        ValueError: If the two tensors differ in shape.

    Example:
        >>> gaussian_kl_by_axis(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
        tensor([[0., 2.]])

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    if mean.shape != log_variance.shape:
        raise ValueError(
            f"mean and log_variance must have one shape, got {tuple(mean.shape)} and {tuple(log_variance.shape)}. "
            "Split one output in two."
        )
    # expm1: near a collapsed posterior exp(v) - 1 - v would be rounding errors
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance)


def free_bits(
    kl_by_axis: Float[Tensor, "b z"], batch_mean: Float[Tensor, " z"], minimum: float
) -> Float[Tensor, " b"]:
    """Sum a divergence in nats over latent axes without pressing an axis below a minimum.

    Averaged over the batch it is `sum_z max(minimum, batch_mean_z)`. The mean has no gradient and is an argument,
    so that several processes can agree on it. A minimum of 0 gives the plain divergence.

    Example:
        >>> free_bits(torch.tensor([[0.25, 2.0]]), torch.tensor([0.25, 2.0]), minimum=0.5)
        tensor([2.5000])

    Source: Kingma et al. 2016, arXiv:1606.04934, equation 15, with one group per axis.
    """
    floor = torch.full_like(kl_by_axis, minimum)
    return reduce(torch.where(batch_mean > minimum, kl_by_axis, floor), "b z -> b", "sum")


def log_importance_weights(
    log_likelihood: Float[Tensor, " n"],
    z: Float[Tensor, "n z"],
    noise: Float[Tensor, "n z"],
    log_variance: Float[Tensor, " z"],
) -> Float[Tensor, " n"]:
    """Compute `log p(x|z) + log p(z) - log q(z|x)` of an image's samples `z = mean + exp(log_variance / 2) noise`.

    All are in nats, the noise is standard normal. The weights' mean estimates the evidence lower bound.

    Example:
        >>> z = torch.randn(2, 3)
        >>> log_importance_weights(torch.zeros(2), z, noise=z, log_variance=torch.zeros(3))
        tensor([0., 0.])
    """
    log_ratio = 0.5 * (noise.square() - z.square() + log_variance)  # the constants cancel
    return log_likelihood + reduce(log_ratio, "n z -> n", "sum")


def importance_bound(log_weights: Float[Tensor, "n b"], num_samples: int) -> Float[Tensor, " b"]:
    """Compute a lower bound of each image's log-likelihood, in nats, from the mean of several importance weights.

    For one sample it is the evidence lower bound; with `num_samples` it rises towards the log-likelihood. If the
    rows contain several groups of so many samples, their bounds are averaged.

    Raises:
        ValueError: If rows are fewer than `num_samples`, or if that is below one.

    Example:
        >>> importance_bound(torch.zeros(4, 1), num_samples=2)
        tensor([0.])

    Source: Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, equation 8.
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


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Convert the negative log-likelihood of an image to bits per number, 8 if all 256 values are equally likely.

    Example:
        >>> bits_per_dim(5.545177444479562, num_dims=1)
        8.0
    """
    return nats / (num_dims * math.log(2))
