"""Neural Activation Coding: the noisy channel and its bound on mutual information.

An encoder gives code logits `a(x)`; its activation code is `c(x) = sign(a(x))`. A noisy channel flips each bit
with probability `p`. The objective is a lower bound on what the received code `c~` tells about the image,

    J = E[ log q(c~ | x') - log 1/M sum_j p(c~ | x_j) ]  <=  I(X; c~),

with the posterior `q` predicted from another view `x'` of it, and the mixture over all `M` codes of the batch.

Every function raises a `ValueError` for a flip probability outside (0, 1/2).

Source: Park, Lee, Kim & Blei 2021, arXiv:2112.04014.
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
    """Raise a `ValueError` unless the flip probability is strictly between 0 and 1/2."""
    if not 0.0 < flip_probability < 0.5:
        raise ValueError(
            f"flip_probability must lie strictly between 0 and 1/2, got {flip_probability}. At 0 the "
            "likelihood is unbounded, at 1/2 the channel carries nothing. Take 0.3, or the paper's 0.1."
        )


def log_likelihood_ratio(flip_probability: float) -> float:
    """Compute half the log odds that the channel keeps a bit, `kappa = 1/2 log((1 - p) / p)`, in nats.

    Example:
        >>> round(log_likelihood_ratio(0.3), 4)
        0.4236
    """
    check_flip_probability(flip_probability)
    return 0.5 * math.log((1 - flip_probability) / flip_probability)


def channel_capacity(flip_probability: float) -> float:
    """Compute the capacity of one use of the binary symmetric channel, `log 2 - H(p)`, in nats per bit.

    Example:
        >>> round(channel_capacity(0.3), 4)
        0.0823
    """
    check_flip_probability(flip_probability)
    p = flip_probability
    return math.log(2) + p * math.log(p) + (1 - p) * math.log1p(-p)


def posterior_log_likelihood(
    received: Float[Tensor, "m k"], posterior_logits: Float[Tensor, "m k"]
) -> Float[Tensor, " m"]:
    """Compute the log-likelihood `log q(c~ | x')`, in nats, of received codes under independent Bernoulli bits.

    It equals `sum_k c~_k l_k / 2 - log(2 cosh(l_k / 2))` for the log odds `l_k` of +1, at any size of the logits.

    Example:
        >>> posterior_log_likelihood(torch.ones(1, 2), torch.zeros(1, 2)).exp()
        tensor([0.2500])
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
    """Compute the log-likelihood `log 1/n sum_j p(c~ | x_j)`, in nats, of received codes under all `n` codes.

    The sum includes the code that was sent. Without it, as in contrastive losses, the lower bound on mutual
    information would become an upper bound. Codes of both kinds lie in [-1, 1].

    With `divide`, inner products are divided by `kappa` instead of multiplied, as by the authors' queue. The value
    is then no likelihood, and serves for comparison only.

    Raises:
        ValueError: If the code lengths differ.

    Example:
        >>> mixture_log_likelihood(torch.ones(1, 1), torch.ones(3, 1), 0.25).exp()
        tensor([0.7500])
    """
    if received.shape[1] != codes.shape[1]:
        raise ValueError(
            f"received and codes must have one length, got {received.shape[1]} and {codes.shape[1]} bits. "
            "Take both from one encoder."
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
    relaxation: Relaxation = "tanh",
    all_code_logits: Float[Tensor, "n k"] | None = None,
    divide: bool = False,
) -> Float[Tensor, " m"]:
    """Compute the training loss, the negative bound with relaxed codes, for each code in nats.

    `"tanh"`, the authors' form, sends `tanh(a)` through the channel. The channel is not defined for relaxed
    codes, so the value is not a bound. `K log cosh(kappa)` is added, which makes it 0 if all logits are zero,
    the saddle that a run has to leave. (It is the authors' loss minus `log n`.)

    `"marginal"` treats the code as random, +1 with probability `(1 + tanh a) / 2`. The received bit is then
    +1 with probability `(1 + (1 - 2p) tanh a) / 2`. The likelihood is normalized for every `a` and equals the
    channel's at saturated codes, so the negative loss is a bound at all times.

    `"straight_through"` sends the hard code and gives `sign` the gradient of `tanh`. The value is the bound
    of the hard codes, but the gradient is not that of the value.

    Logits are those of `nac_bound`; `uniform` are draws from [0, 1) that decide what the channel does to each bit.
    `all_code_logits`, those of the mixture, are of all processes or from a queue. They must include `code_logits`,
    which are the default, or a momentum encoder's of the same views. Older ones make the value an estimate.
    `divide` is that of `mixture_log_likelihood`, not with `"marginal"`.

    Raises:
        ValueError: If shapes differ, the relaxation is unknown, or codes are fewer than two.

    Example:
        >>> logits, uniform = torch.zeros(4, 8), torch.rand(4, 8)
        >>> nac_loss(logits, logits, uniform, flip_probability=0.3).abs() < 1e-5
        tensor([True, True, True, True])

    Source: Park et al. 2021, arXiv:2112.04014; the marginal form is ours.
    """
    check_same_shape(code_logits, posterior_logits)
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
    relaxation: Relaxation = "tanh",
) -> Float[Tensor, "m k"]:
    """Send codes through the channel, with the gradient of the relaxation; arguments are those of `nac_loss`.

    Raises:
        ValueError: If shapes differ, or the relaxation is unknown.

    Example:
        >>> received_codes(torch.full((1, 2), 9.0), torch.tensor([[0.1, 0.9]]), 0.3).round()
        tensor([[-1.,  1.]])
    """
    check_flip_probability(flip_probability)
    if uniform.shape != code_logits.shape:
        raise ValueError(
            f"uniform must have the shape of code_logits {tuple(code_logits.shape)}, got {tuple(uniform.shape)}. "
            "Draw one number for each bit."
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
    """Return `tanh(a)`, or `sign(a)` with the gradient of `tanh(a)`."""
    relaxed = torch.tanh(code_logits)
    if relaxation == "tanh":
        return relaxed
    return relaxed + (hard_codes(code_logits) - relaxed).detach()


def marginal_posterior_logits(
    code_logits: Float[Tensor, "m k"], flip_probability: float
) -> Float[Tensor, "m k"]:
    """Compute the log odds that a received bit is +1, if the sent bit is +1 with probability `(1 + tanh a) / 2`.

    They are `2 atanh((1 - 2p) tanh a)`: about `2 (1 - 2p) a` near zero, and never beyond the channel's `2 kappa`.

    Example:
        >>> marginal_posterior_logits(torch.zeros(1, 2), 0.3)
        tensor([[0., 0.]])
    """
    check_flip_probability(flip_probability)
    return 2 * torch.atanh((1 - 2 * flip_probability) * torch.tanh(code_logits))


def _marginal_mixture_log_likelihood(
    received: Tensor, code_logits: Tensor, flip_probability: float
) -> Tensor:
    """Return the log of the mean over `n` codes of the received bits' likelihood, `(m, k), (n, k) -> (m,)`."""
    half_log_odds = marginal_posterior_logits(code_logits, flip_probability) / 2
    # log p(c~ | x_j) = sum_k c~_k l_jk / 2 - log(2 cosh(l_jk / 2))
    log_normalizer = reduce(F.softplus(2 * half_log_odds) - half_log_odds, "n k -> n", "sum")
    log_joint = log_sum_exp(received, half_log_odds, -log_normalizer)  # -> (m,)
    return log_joint - math.log(code_logits.shape[0])


def nac_bound(
    code_logits: Float[Tensor, "m k"],
    posterior_logits: Float[Tensor, "m k"],
    flip_probability: float = 0.3,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " m"]:
    """Compute the bound on mutual information with hard codes and all constants, for reporting, in nats per code.

    Its mean is at most `min(log m, k * channel_capacity(p))`, up to the noise of one draw of the channel.

    Args:
        code_logits: Code logits `a`; both views of an image are two rows. The code is their sign, +1 at zero.
        posterior_logits: Posterior logits; row `i` is predicted from the *other* view of the image of row `i`.
        flip_probability: Probability that the channel flips a bit, in (0, 1/2).
        generator: Source of the channel's noise; by default of seed 0, so that equal logits give equal values.

    Raises:
        ValueError: If shapes differ, or codes are fewer than two.

    Example:
        >>> logits = torch.zeros(4, 8)
        >>> nac_bound(logits, logits, flip_probability=0.3).shape
        torch.Size([4])

    Source: Park et al. 2021, arXiv:2112.04014; Barber & Agakov 2003 for the first term.
    """
    check_same_shape(code_logits, posterior_logits)
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
    """Return activation codes as -1 and +1, without gradient; a logit of exactly zero counts as +1.

    Example:
        >>> hard_codes(torch.tensor([[-2.0, 0.0, 3.0]]))
        tensor([[-1.,  1.,  1.]])
    """
    return torch.where(code_logits >= 0, 1.0, -1.0).to(code_logits)


def check_same_shape(code_logits: Tensor, posterior_logits: Tensor) -> None:
    """Raise a `ValueError` unless logits are of one shape and of two codes or more."""
    if code_logits.shape != posterior_logits.shape:
        raise ValueError(
            f"code_logits and posterior_logits must have one shape, got {tuple(code_logits.shape)} and "
            f"{tuple(posterior_logits.shape)}. Predict one posterior logit for each code bit."
        )
    if code_logits.shape[0] < 2:
        raise ValueError(
            f"at least two codes are needed, got {code_logits.shape[0]}. Give both views of at least one image."
        )
