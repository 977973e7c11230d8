"""Neural Activation Coding without drawn noise: a lower bound of its bound, and the channel as a temperature.

With `e = 1 - 2p` and codes that are +1 with probability `(1 + t) / 2`, the first term of the bound is linear in
the received code, whose mean is `e t`. Jensen's inequality takes the expectation of the second into the
logarithm:

    E[log 1/n sum_j p(c~ | x_j)]  <=  log sum_j exp(sum_k log((1 + e^2 t_ik t_jk) / 2)) - log n.

At hard codes `log(1 + e^2 s)` is linear in `s = +-1`, with slope `atanh(e^2)`. The loss is then a contrastive one
on cosines of codes, of temperature `1 / (K atanh(e^2))`. docs/objective.md derives all of it.

`own_start` leaves each code out of its own mixture, as SimCLR does; row `i` is then key `own_start + i`. What
remains is no bound. Every function raises a `ValueError` for a flip probability outside (0, 1/2).
"""

import math

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from nacgen.functional.contrastive import directions
from nacgen.functional.log_sum_exp import log_sum_exp
from nacgen.functional.nac import (
    channel_capacity,
    check_flip_probability,
    check_same_shape,
    hard_codes,
    log_likelihood_ratio,
    posterior_log_likelihood,
)

MOST_TERMS = 63  # of the series of the logarithm; float32 needs 5 at p = 0.4, 7 at 0.3, 31 at 0.1


def closed_form_loss(
    code_logits: Float[Tensor, "m k"],
    posterior_logits: Float[Tensor, "m k"],
    flip_probability: float,
    all_code_logits: Float[Tensor, "n k"] | None = None,
    own_start: int | None = None,
) -> Float[Tensor, " m"]:
    """Compute the negative bound without drawn noise for each code, in nats, with `t = tanh(a)`.

    It is at least the expected loss of the marginal relaxation, `nac_loss(..., "marginal")`, so that its negative
    is a bound at every size of the logits. Below p = 0.05 it is a little higher still, for the series of the
    logarithm is cut. Arguments are those of `nac_loss`.

    Raises:
        ValueError: If shapes differ, or codes are fewer than two.

    Example:
        >>> logits = torch.zeros(4, 8)
        >>> closed_form_loss(logits, logits, flip_probability=0.3).abs() < 1e-5
        tensor([True, True, True, True])
    """
    check_same_shape(code_logits, posterior_logits)
    check_flip_probability(flip_probability)
    means = torch.tanh(code_logits)
    keys = means if all_code_logits is None else torch.tanh(all_code_logits)
    received = (1 - 2 * flip_probability) * means
    mixture = _marginal_mixture(means, keys, flip_probability, own_start)
    return mixture - posterior_log_likelihood(received, posterior_logits)


def direction_loss(
    code_logits: Float[Tensor, "m k"],
    other_code_logits: Float[Tensor, "m k"],
    flip_probability: float,
    all_code_logits: Float[Tensor, "n k"] | None = None,
    own_start: int | None = None,
) -> Float[Tensor, " m"]:
    """Compute the loss in closed form by the cosine of codes, for each code in nats.

    Vectors of length `sqrt(K)` along `tanh(a)` stand for the codes in both inner products. At hard codes the
    negative loss is the bound, with the posterior that the other view's code and the channel imply; elsewhere it
    is none. `other_code_logits` are of the other view of each row's image; the rest is as in `nac_loss`.

    Raises:
        ValueError: If shapes differ, or codes are fewer than two.

    Example:
        >>> codes = torch.tensor([[9.0] * 8, [-9.0] * 8])
        >>> direction_loss(codes, codes, flip_probability=0.3)
        tensor([-0.0912, -0.0912])
    """
    check_same_shape(code_logits, other_code_logits)
    codes, others = _stretched(code_logits), _stretched(other_code_logits)
    keys = codes if all_code_logits is None else _stretched(all_code_logits)
    p = flip_probability
    kappa = log_likelihood_ratio(p)
    products = reduce(codes * others, "m k -> m", "sum")
    positive = (1 - 2 * p) * kappa * products + codes.shape[1] / 2 * math.log(p * (1 - p))
    loss: Tensor = _linear_mixture(codes, keys, p, own_start) - positive
    return loss


def closed_form_bound(
    code_logits: Float[Tensor, "m k"],
    posterior_logits: Float[Tensor, "m k"],
    flip_probability: float = 0.3,
) -> Float[Tensor, " m"]:
    """Compute the bound of hard codes without drawn noise, in nats per code; at most the mean of `nac_bound`.

    It takes one matrix product, whatever the relaxation. Arguments are those of `nac_bound`.

    Raises:
        ValueError: If shapes differ, or codes are fewer than two.

    Example:
        >>> codes = torch.tensor([[0.8473] * 8, [-0.8473] * 8])
        >>> closed_form_bound(codes, codes, flip_probability=0.3)
        tensor([0.0912, 0.0912])
    """
    check_same_shape(code_logits, posterior_logits)
    codes = hard_codes(code_logits)
    mixture = _linear_mixture(codes, codes, flip_probability, None)
    return posterior_log_likelihood((1 - 2 * flip_probability) * codes, posterior_logits) - mixture


def temperature_of_channel(flip_probability: float, code_dim: int) -> float:
    """Compute the temperature of the contrastive loss that the objective is at hard codes.

    It is `1 / (K atanh((1 - 2p)^2))` with cosines of codes of `code_dim` bits, `K`, one or more.

    Example:
        >>> [round(temperature_of_channel(p, 128), 3) for p in (0.1, 0.3, 0.4)]
        [0.01, 0.048, 0.195]
    """
    return 1 / (_check_code_dim(code_dim) * _slope(flip_probability))


def flip_probability_of_temperature(temperature: float, code_dim: int) -> float:
    """Compute the flip probability whose `temperature_of_channel` is the given one, above zero.

    Raises:
        ValueError: If the temperature is not above zero, or so low that the flip probability is zero.

    Example:
        >>> [round(flip_probability_of_temperature(0.2, bits), 3) for bits in (32, 64, 128)]
        [0.303, 0.36, 0.401]
    """
    # p = (1 - sqrt(tanh x)) / 2 with x = 1 / (K T); 1 - tanh x = 2 / (exp(2x) + 1) keeps small values exact
    exponent = 2 / (_check_code_dim(code_dim) * temperature) if temperature > 0 else math.inf
    if not exponent < 700:
        raise ValueError(
            f"temperature must be above {1 / (350 * code_dim):.2g} for {code_dim} bits, got {temperature}. "
            "Below it no bit is flipped; SimCLR uses 0.5."
        )
    gap = 2 / (math.exp(exponent) + 1)
    return gap / (1 + math.sqrt(1 - gap)) / 2


def information_ceiling(flip_probability: float, code_dim: int, num_codes: int) -> float:
    """Compute `min(log n, K (log 2 - H(p)))`, the most nats that the bound can show with `n` codes of `K` bits.

    The first ceiling is that of the mixture, the second the capacity of all uses of the channel.

    Example:
        >>> round(information_ceiling(0.4, 128, 256), 2), round(information_ceiling(0.1, 128, 256), 2)
        (2.58, 5.55)
    """
    capacity = _check_code_dim(code_dim) * channel_capacity(flip_probability)
    return min(math.log(num_codes), capacity)


def _check_code_dim(code_dim: int) -> int:
    if code_dim < 1:
        raise ValueError(f"code_dim must be one bit or more, got {code_dim}. The paper has 128.")
    return code_dim


def _slope(flip_probability: float) -> float:
    """Return `atanh(e^2)`, from `1 - e^2 = 4p(1 - p)` for any `p`."""
    check_flip_probability(flip_probability)
    p = flip_probability
    return 0.5 * (math.log1p((1 - 2 * p) ** 2) - math.log(4 * p * (1 - p)))


def _stretched(code_logits: Tensor) -> Tensor:
    """Return vectors of the length of hard codes along the relaxed codes."""
    return directions(torch.tanh(code_logits)) * math.sqrt(code_logits.shape[1])


def _linear_mixture(codes: Tensor, keys: Tensor, p: float, own_start: int | None) -> Tensor:
    """Return the second term by inner products, which is exact for hard codes, `(m, k), (n, k) -> (m,)`."""
    log_joint = log_sum_exp(_slope(p) * codes, keys, own_start=own_start)
    # (log((1 + e^2) / 2) + log((1 - e^2) / 2)) / 2 for each bit, and 1 - e^2 = 4p(1 - p)
    offset = codes.shape[1] / 2 * math.log(p * (1 - p) * (1 + (1 - 2 * p) ** 2))
    return log_joint + offset - math.log(len(keys) - (own_start is not None))


def _marginal_mixture(means: Tensor, keys: Tensor, p: float, own_start: int | None) -> Tensor:
    """Return the second term for bits with means by inner products of powers, `(m, k), (n, k) -> (m,)`."""
    # sum_k log(1 + e^2 t_k t'_k) = sum_r (-1)^(r+1) e^(2r) / r <t^r, t'^r>
    powers = torch.arange(1, _num_terms(p, torch.finfo(means.dtype).eps) + 1).to(means)
    weights = -((-((1 - 2 * p) ** 2)) ** powers) / powers
    rows = rearrange(weights, "r -> r 1") * _powers(means, powers)
    rows, columns = (rearrange(x, "m r k -> m (r k)") for x in (rows, _powers(keys, powers)))
    log_joint = log_sum_exp(rows, columns, own_start=own_start)
    offset = keys.shape[1] * math.log(2) + math.log(len(keys) - (own_start is not None))
    return log_joint - offset


def _powers(means: Tensor, powers: Tensor) -> Tensor:
    """Return element-wise powers, `(m, k), (r,) -> (m, r, k)`."""
    return rearrange(means, "m k -> m 1 k") ** rearrange(powers, "r -> r 1")


def _num_terms(p: float, accuracy: float) -> int:
    """Return an odd number of terms, with which the series is never below the logarithm, for a bit's accuracy."""
    num, square = 1, (1 - 2 * p) ** 2
    while num < MOST_TERMS and square ** (num + 1) / (num + 1) / (1 - square) > accuracy:
        num += 2
    return num
