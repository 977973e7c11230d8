"""Likelihoods of images whose pixels take 256 values, in nats per image.

Both are probabilities, not densities: they sum to one over the 256 values of a pixel. So their bits per dimension
are comparable, and a variance near zero gains nothing. A value stands for the interval of half a step to either
side; black and white stand for everything below and above.

Source:
    Salimans et al. 2017, arXiv:1701.05517 (the mixture of logistics); Rybkin, Daniilidis & Levine 2021,
    arXiv:2006.13202 (the Gaussian whose variance is optimal).
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

HALF_STEP = 1 / 255  # half of what lies between two of 256 values in [-1, 1]
SMALLEST_VARIANCE = HALF_STEP**2 / 3  # that of a uniform distribution over one value's interval
FAR = 1e4  # standard deviations to the open end; infinity would make gradients NaN
LOG_SCALES = -7.0, 7.0  # of a logistic: from nearly all of it in one value's interval to flat


def check_range(images: Float[Tensor, "b c h w"]) -> None:
    """Raise a `ValueError` that names the extremes unless all pixels are in [-1, 1]."""
    if not bool((images.abs() <= 1).all()):  # NaN neither
        raise ValueError(
            f"a likelihood of 256 values scores images in [-1, 1], got values from {images.min():.4g} to "
            f"{images.max():.4g}. Bring pixels u of 0 to 255 there by u / 127.5 - 1."
        )


def gaussian_log_likelihood(
    images: Float[Tensor, "b c h w"], mean: Float[Tensor, "b c h w"], variance: Float[Tensor, ""]
) -> Float[Tensor, " b"]:
    """Compute the log-probability of images under Gaussian pixels that are rounded and clipped to 256 values.

    Images lie in [-1, 1]. `mean` is that of each pixel before rounding. `variance` is above zero.

    Raises:
        ValueError: If a pixel is outside of [-1, 1].

    Example:
        >>> black = -torch.ones(1, 1, 1, 1)
        >>> gaussian_log_likelihood(black, black - 1, torch.tensor(1e-4)).abs() < 1e-6
        tensor([True])
    """
    check_range(images)
    center, half = (images - mean) * variance.rsqrt(), HALF_STEP * variance.rsqrt()
    low = center - torch.where(images < -1 + HALF_STEP, FAR, half)
    high = center + torch.where(images > 1 - HALF_STEP, FAR, half)
    # log(Phi(high) - Phi(low)), mirrored to the left, where Phi's logarithm is exact
    is_right = low + high > 0
    low, high = torch.where(is_right, -high, low), torch.where(is_right, -low, high)
    log_high = torch.special.log_ndtr(high)
    log_ratio = torch.special.log_ndtr(low) - log_high
    log_probability: Tensor = log_high + torch.log(-torch.expm1(log_ratio))
    return reduce(log_probability, "b c h w -> b", "sum")


def expected_squared_error(
    images: Float[Tensor, "b c h w"], mean: Float[Tensor, "b c h w"], variance: Float[Tensor, ""]
) -> Float[Tensor, " b"]:
    """Compute `E[(y - mean)^2]` of the Gaussian values `y` that were rounded to an image, averaged over pixels.

    Its mean over images is the next variance in expectation-maximization for `gaussian_log_likelihood`. It is
    the squared error plus that of rounding; black and white pixels have the moments of a Gaussian's tail.

    Example:
        >>> gray = torch.zeros(1, 1, 1, 1)
        >>> expected_squared_error(gray, gray + 1, torch.tensor(1.0))
        tensor([1.0000])

    Source: Dempster, Laird & Rubin 1977, section 4.2 (censored data).
    """
    error = images - mean
    is_black, is_white = images < -1 + HALF_STEP, images > 1 - HALF_STEP
    deviations = torch.where(is_black, error + HALF_STEP, HALF_STEP - error) * variance.rsqrt()
    log_density = -0.5 * (deviations.square() + math.log(2 * math.pi))
    inverse_mills = torch.exp(log_density - torch.special.log_ndtr(deviations))
    tail = variance * (1 - deviations * inverse_mills)
    rounded = error.square() + SMALLEST_VARIANCE
    return reduce(torch.where(is_black | is_white, tail, rounded), "b c h w -> b", "mean")


def logistic_mixture_channels(num_mixtures: int, image_channels: int = 3) -> int:
    """Return the number of channels that describe each pixel's mixture of logistics.

    Example:
        >>> logistic_mixture_channels(10)
        100
    """
    # A weight, a mean and a scale per image channel, and a coefficient per pair of image channels.
    return num_mixtures * (1 + 2 * image_channels + image_channels * (image_channels - 1) // 2)


def logistic_mixture_log_likelihood(
    images: Float[Tensor, "b c h w"], outputs: Float[Tensor, "b p h w"]
) -> Float[Tensor, " b"]:
    """Compute the log-probability of images under pixels that are mixtures of rounded logistics.

    The mean of a channel depends linearly on the pixel's earlier channels. Images lie in [-1, 1]. `p` is
    `logistic_mixture_channels` of the number of components and of `c`.

    Raises:
        ValueError: If a pixel is outside of [-1, 1], or if `p` fits no whole number of components.

    Example:
        >>> gray = torch.zeros(1, 3, 1, 1)
        >>> logistic_mixture_log_likelihood(gray, torch.zeros(1, logistic_mixture_channels(2), 1, 1)) < 0
        tensor([True])

    Source: Salimans et al. 2017, arXiv:1701.05517, section 2. Differs from the paper: the difference of two
    logistic functions is computed exactly, so no case is left to the density.
    """
    check_range(images)
    weights, means, log_scales, coefficients = _mixture_parts(outputs, images.shape[1])
    pixels = rearrange(images, "b c h w -> b 1 c h w")
    means = _conditional_means(means, coefficients, pixels)
    is_black, is_white = pixels < -1 + HALF_STEP, pixels > 1 - HALF_STEP
    center, half = (pixels - means) * torch.exp(-log_scales), HALF_STEP * torch.exp(-log_scales)
    # s(high) - s(low) = s(high) s(-low) (1 - exp(low - high)) for the logistic function s
    log_probability = (
        torch.where(is_white, 0.0, F.logsigmoid(center + half))
        + torch.where(is_black, 0.0, F.logsigmoid(half - center))
        + torch.where(is_black | is_white, 0.0, torch.log(-torch.expm1(-2 * half)))
    )
    log_joint = weights.log_softmax(dim=1) + reduce(log_probability, "b m c h w -> b m h w", "sum")
    return reduce(log_joint.logsumexp(dim=1), "b h w -> b", "sum")


def logistic_mixture_mean(
    outputs: Float[Tensor, "b p h w"], image_channels: int = 3
) -> Float[Tensor, "b c h w"]:
    """Compute the mean pixels of a mixture of logistics, with the means of each component clipped to [-1, 1].

    Example:
        >>> logistic_mixture_mean(torch.zeros(1, logistic_mixture_channels(2), 1, 1)).flatten()
        tensor([0., 0., 0.])
    """
    weights, means, _, coefficients = _mixture_parts(outputs, image_channels)
    means = _conditional_means(means, coefficients)
    responsibilities = rearrange(weights.softmax(dim=1), "b m h w -> b m 1 h w")
    return reduce(responsibilities * means, "b m c h w -> b c h w", "sum").clamp(-1, 1)


def _mixture_parts(outputs: Tensor, image_channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights `(b, m, h, w)`, means, log-scales `(b, m, c, h, w)`, coefficients `(b, m, pairs, h, w)`."""
    per_component = logistic_mixture_channels(1, image_channels)
    if outputs.shape[1] % per_component or outputs.shape[1] == 0:
        raise ValueError(
            f"outputs must have a multiple of {per_component} channels for images of {image_channels}, got "
            f"{outputs.shape[1]}. Make them logistic_mixture_channels(num_mixtures, {image_channels})."
        )
    parts = rearrange(outputs, "b (m p) h w -> b m p h w", p=per_component)
    c = image_channels
    sizes = [1, c, c, per_component - 1 - 2 * c]
    weights, means, log_scales, coefficients = parts.split(sizes, dim=2)
    log_scales = log_scales.clamp(*LOG_SCALES)
    return weights.squeeze(2), means, log_scales, torch.tanh(coefficients)


def _conditional_means(means: Tensor, coefficients: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Return means given earlier channels: those of `pixels`, else the components' own means in [-1, 1]."""
    channels = list(means.unbind(2))
    of_pair = iter(coefficients.unbind(2))
    for later in range(len(channels)):
        for earlier in range(later):
            given = channels[earlier] if pixels is None else pixels[:, :, earlier]
            channels[later] = channels[later] + next(of_pair) * given
        if pixels is None:
            channels[later] = channels[later].clamp(-1, 1)
    return torch.stack(channels, dim=2)
