"""Neural Activation Coding: the noisy channel and its bound on mutual information.

An encoder gives code logits `a(x)`; its activation code is `c(x) = sign(a(x))`. A noisy channel flips
each bit independently with probability `p`. The objective is a lower bound on the information that the
received code `c~` carries about the image,

    J = E[ log q(c~ | x') - log 1/M sum_j p(c~ | x_j) ]  <=  I(X; c~),

with the posterior `q` predicted from another view `x'` of the same image, and the mixture taken over all
`M` codes of the batch, the row's own included.

Source:
    Park, Lee, Kim & Blei 2021, arXiv:2112.04014.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from nacgen.functional.log_sum_exp import log_sum_exp

Relaxation = Literal["marginal", "tanh", "straight_through"]


def check_flip_probability(flip_probability: float) -> None:
    """Raise unless the channel flips bits with a probability strictly between 0 and 1/2.

    Args:
        flip_probability: Probability that one bit is flipped.

    Raises:
        ValueError: The probability lies outside (0, 1/2).
    """
    if not 0.0 < flip_probability < 0.5:
        raise ValueError(
            f"flip_probability must lie strictly between 0 and 1/2, got {flip_probability}. At 0 the "
            "likelihood is unbounded, at 1/2 the channel carries nothing; 0.1 is the paper's default."
        )


def log_likelihood_ratio(flip_probability: float) -> float:
    """Half the log odds that the channel keeps a bit, `kappa = 1/2 log((1 - p) / p)`.

    Args:
        flip_probability: Probability that one bit is flipped, in (0, 1/2).

    Returns:
        `kappa` in nats, above zero.

    Raises:
        ValueError: The probability lies outside (0, 1/2).
    """
    check_flip_probability(flip_probability)
    return 0.5 * math.log((1 - flip_probability) / flip_probability)


def channel_capacity(flip_probability: float) -> float:
    """Capacity of one use of the binary symmetric channel, `log 2 - H(p)`.

    Args:
        flip_probability: Probability that one bit is flipped, in (0, 1/2).

    Returns:
        Nats per bit, in (0, log 2).

    Raises:
        ValueError: The probability lies outside (0, 1/2).
    """
    check_flip_probability(flip_probability)
    p = flip_probability
    return math.log(2) + p * math.log(p) + (1 - p) * math.log1p(-p)


def flip_probability_of_capacity(nats_per_code: float, code_dim: int) -> float:
    """The flip probability at which a whole code can carry so many nats; inverts `channel_capacity`.

    Keeping the capacity instead of the probability makes codes of several lengths comparable.

    Args:
        nats_per_code: Capacity of `code_dim` uses of the channel, in (0, code_dim * log 2).
        code_dim: Bits in a code, one or more.

    Returns:
        The probability, in (0, 1/2), to the precision of a float.

    Raises:
        ValueError: No channel with so many bits has this capacity.
    """
    if not 0 < nats_per_code < code_dim * math.log(2):
        raise ValueError(
            f"{code_dim} bits carry between 0 and {code_dim * math.log(2):.3f} nats, both excluded, got "
            f"{nats_per_code}. Lower the capacity or use more bits."
        )
    low, high = 0.0, 0.5
    while low < (middle := (low + high) / 2) < high:
        if code_dim * channel_capacity(middle) > nats_per_code:
            low = middle
        else:
            high = middle
    return high if high < 0.5 else low


def posterior_log_likelihood(
    received: Float[Tensor, "m k"], posterior_logits: Float[Tensor, "m k"]
) -> Float[Tensor, " m"]:
    """Log-likelihood `log q(c~ | x')` of received codes under independent Bernoulli bits.

    Equals `sum_k c~_k l_k / 2 - log(2 cosh(l_k / 2))`, computed through `softplus` so that it is exact
    at logits of any size.

    Args:
        received: Received codes in [-1, 1].
        posterior_logits: Log odds that each bit is +1.

    Returns:
        Nats per code, zero or less.
    """
    # log(2 cosh(l/2)) = softplus(l) - l/2 and c~ l/2 + l/2 = l (1 + c~)/2
    per_bit = posterior_logits * (1 + received) / 2 - F.softplus(posterior_logits)
    return reduce(per_bit, "m k -> m", "sum")


def mixture_log_likelihood(
    received: Float[Tensor, "m k"],
    codes: Float[Tensor, "n k"],
    flip_probability: float,
    divide: bool = False,
) -> Float[Tensor, " m"]:
    """Log-likelihood `log 1/n sum_j p(c~ | x_j)` of received codes under all codes of the batch.

    The sum includes the code that was sent. Leaving it out, as contrastive losses do, would turn the
    lower bound on mutual information into an upper one.

    Args:
        received: Received codes in [-1, 1].
        codes: All `n` codes that may have been sent, in [-1, 1].
        flip_probability: Probability that one bit is flipped, in (0, 1/2).
        divide: Divide inner products by `kappa` in place of multiplying, as the authors' queue does. The
            value is then no likelihood; for comparison only.

    Returns:
        Nats per received code.

    Raises:
        ValueError: The probability lies outside (0, 1/2), or the code lengths differ.
    """
    if received.shape[1] != codes.shape[1]:
        raise ValueError(
            f"received and codes must have one code length, got {received.shape[1]} and "
            f"{codes.shape[1]} bits. Take both from the same encoder."
        )
    kappa = log_likelihood_ratio(flip_probability)
    scale = 1 / kappa if divide else kappa
    log_joint = log_sum_exp(scale * received, codes)  # (m, k), (n, k) -> (m,)
    log_normalizer = codes.shape[1] * (math.log(2 * math.cosh(kappa)))
    return log_joint - log_normalizer - math.log(codes.shape[0])


def nac_loss(
    code_logits: Float[Tensor, "m k"],
    posterior_logits: Float[Tensor, "m k"],
    uniform: Float[Tensor, "m k"],
    flip_probability: float,
    relaxation: Relaxation = "marginal",
    all_code_logits: Float[Tensor, "n k"] | None = None,
    divide: bool = False,
) -> Float[Tensor, " m"]:
    """The training loss: the negative bound with relaxed codes.

    `"tanh"`, the authors' form, sends `tanh(a)` through the channel. Relaxed codes are no channel inputs, so
    the value is no bound; `K log cosh(kappa)` is added, which makes it 0 where all logits are zero, the
    saddle that a run has to leave. (It is the authors' loss less `log n`.)

    `"marginal"` treats the code as random, +1 with probability `(1 + tanh a) / 2`. What is received is then
    +1 with probability `(1 + (1 - 2p) tanh a) / 2`: the likelihood is normalised for every `a`, equals the
    channel's at saturated codes, and the negative loss is a bound all along. The sampled bits pass their
    gradient straight through to their mean.

    `"straight_through"` sends the hard code and gives `sign` the gradient of `tanh`: the value is the bound of
    the codes that will be used, the gradient is not its own.

    Args:
        code_logits: Code logits `a`, both views of an image in two rows.
        posterior_logits: Row `i` is predicted from the *other* view of code row `i`'s image.
        uniform: Draws from [0, 1) that decide what the channel does to each bit.
        flip_probability: Probability that one bit is flipped, in (0, 1/2).
        relaxation: `"marginal"`, `"tanh"` or `"straight_through"`.
        all_code_logits: Code logits of the mixture: those of all processes when training on several, or a
            queue. Must include `code_logits`, or a momentum encoder's of the same views; what is older
            makes the value an estimate. Absent: `code_logits`.
        divide: The authors' queue, see `mixture_log_likelihood`; not with `"marginal"`.

    Returns:
        Nats per code, to be minimised.

    Raises:
        ValueError: The probability lies outside (0, 1/2), shapes differ, the relaxation is unknown, or there
            are fewer than two codes.

    Source:
        Park et al. 2021, arXiv:2112.04014; the marginal form is ours.
    """
    _check_same_shape(code_logits, posterior_logits)
    keys = code_logits if all_code_logits is None else all_code_logits
    received = received_codes(code_logits, uniform, flip_probability, relaxation)
    if relaxation == "marginal":
        if divide:
            raise ValueError(
                "divide=True needs relaxation tanh or straight_through, got 'marginal'."
            )
        mixture = _marginal_mixture_log_likelihood(received, keys, flip_probability)
    else:
        codes = _relax(keys, relaxation)
        mixture = mixture_log_likelihood(received, codes, flip_probability, divide)
    offset = 0.0
    if relaxation == "tanh":
        offset = code_logits.shape[1] * math.log(math.cosh(log_likelihood_ratio(flip_probability)))
    return offset + mixture - posterior_log_likelihood(received, posterior_logits)


def received_codes(
    code_logits: Float[Tensor, "m k"],
    uniform: Float[Tensor, "m k"],
    flip_probability: float,
    relaxation: Relaxation = "marginal",
) -> Float[Tensor, "m k"]:
    """What comes out of the channel, with the gradient of the relaxation, see `nac_loss`.

    Args:
        code_logits: Code logits `a`.
        uniform: Draws from [0, 1) that decide what the channel does to each bit.
        flip_probability: Probability that one bit is flipped, in (0, 1/2).
        relaxation: `"marginal"`, `"tanh"` or `"straight_through"`.

    Returns:
        Received codes in [-1, 1].

    Raises:
        ValueError: The probability lies outside (0, 1/2), shapes differ, or the relaxation is unknown.
    """
    check_flip_probability(flip_probability)
    if uniform.shape != code_logits.shape:
        raise ValueError(
            f"uniform must have the shape of code_logits {tuple(code_logits.shape)}, got "
            f"{tuple(uniform.shape)}. Draw one number for each bit."
        )
    if relaxation == "marginal":
        mean = (1 - 2 * flip_probability) * torch.tanh(code_logits)
        sampled = torch.where(uniform < (1 + mean) / 2, 1.0, -1.0)
        return mean + (sampled - mean).detach()
    if relaxation not in ("tanh", "straight_through"):
        raise ValueError(
            f"relaxation must be marginal, tanh or straight_through, got {relaxation!r}."
        )
    return torch.where(uniform < flip_probability, -1.0, 1.0) * _relax(code_logits, relaxation)


def _relax(code_logits: Tensor, relaxation: Relaxation) -> Tensor:
    """`tanh(a)`, or `sign(a)` with the gradient of `tanh(a)`."""
    relaxed = torch.tanh(code_logits)
    if relaxation == "tanh":
        return relaxed
    return relaxed + (hard_codes(code_logits) - relaxed).detach()


def marginal_posterior_logits(
    code_logits: Float[Tensor, "m k"], flip_probability: float
) -> Float[Tensor, "m k"]:
    """Log odds that a received bit is +1 when the code bit is +1 with probability `(1 + tanh a) / 2`.

    Args:
        code_logits: Code logits `a`.
        flip_probability: Probability that one bit is flipped, in (0, 1/2).

    Returns:
        `2 atanh((1 - 2p) tanh a)`: about `2 (1 - 2p) a` near zero, never beyond the channel's `2 kappa`.

    Raises:
        ValueError: The probability lies outside (0, 1/2).
    """
    check_flip_probability(flip_probability)
    return 2 * torch.atanh((1 - 2 * flip_probability) * torch.tanh(code_logits))


def _marginal_mixture_log_likelihood(
    received: Tensor, code_logits: Tensor, flip_probability: float
) -> Tensor:
    """Log of the mean over `n` codes of the received bits' likelihood, (m, k), (n, k) -> (m,)."""
    half_log_odds = marginal_posterior_logits(code_logits, flip_probability) / 2
    # log p(c~ | x_j) = sum_k c~_k l_jk / 2 - log(2 cosh(l_jk / 2))
    log_normalizer = reduce(F.softplus(2 * half_log_odds) - half_log_odds, "n k -> n", "sum")
    log_joint = log_sum_exp(received, half_log_odds, -log_normalizer)  # -> (m,)
    return log_joint - math.log(code_logits.shape[0])


def nac_bound(
    code_logits: Float[Tensor, "m k"],
    posterior_logits: Float[Tensor, "m k"],
    flip_probability: float = 0.1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " m"]:
    """The bound on mutual information with hard codes and all constants, for reporting.

    Its mean is at most `min(log m, k * channel_capacity(p))`, up to the noise of one channel draw.

    Args:
        code_logits: Code logits `a`, both views of an image in two rows; the code is their sign, and a
            logit of exactly zero counts as +1.
        posterior_logits: Row `i` is predicted from the *other* view of code row `i`'s image.
        flip_probability: Probability that one bit is flipped, in (0, 1/2).
        generator: Source of the channel's noise. Absent: a generator seeded with 0, so that the same
            logits give the same value.

    Returns:
        Nats per code.

    Raises:
        ValueError: The probability lies outside (0, 1/2), shapes differ, or fewer than two codes.

    Source:
        Park et al. 2021, arXiv:2112.04014; Barber & Agakov 2003 for the first term.
    """
    _check_same_shape(code_logits, posterior_logits)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    check_flip_probability(flip_probability)
    uniform = torch.rand(code_logits.shape, generator=generator, device=generator.device)
    codes = hard_codes(code_logits)
    received = torch.where(uniform.to(codes.device) < flip_probability, -codes, codes)
    return posterior_log_likelihood(received, posterior_logits) - mixture_log_likelihood(
        received, codes, flip_probability
    )


def hard_codes(code_logits: Float[Tensor, "m k"]) -> Float[Tensor, "m k"]:
    """Activation codes as -1 and +1; a logit of exactly zero counts as +1.

    Args:
        code_logits: Code logits of any size.

    Returns:
        Codes in the logits' dtype, without gradient.
    """
    return torch.where(code_logits >= 0, 1.0, -1.0).to(code_logits)


def _check_same_shape(code_logits: Tensor, posterior_logits: Tensor) -> None:
    if code_logits.shape != posterior_logits.shape:
        raise ValueError(
            f"code_logits and posterior_logits must have one shape, got {tuple(code_logits.shape)} and "
            f"{tuple(posterior_logits.shape)}. Predict one posterior logit for each code bit."
        )
    if code_logits.shape[0] < 2:
        raise ValueError(
            f"at least two codes are needed to tell them apart, got {code_logits.shape[0]}. "
            "Give both views of at least one image."
        )
