"""The formulas of Neural Activation Coding as loops over rows and bits, written from the paper."""

import math

Rows = list[list[float]]


def log_channel(received: list[float], code: list[float], p: float) -> float:
    """log p(c~ | x): each bit kept with probability 1 - p, flipped with p."""
    return sum(math.log(1 - p if r == c else p) for r, c in zip(received, code, strict=True))


def log_posterior(received: list[float], logits: list[float]) -> float:
    """log q(c~ | x'): independent bits, +1 with probability sigmoid(l)."""
    return sum(-math.log1p(math.exp(-r * a)) for r, a in zip(received, logits, strict=True))


def bound(received: Rows, codes: Rows, posterior_logits: Rows, p: float) -> list[float]:
    """J of every row, its own code in the mixture."""
    values = []
    for r, logits in zip(received, posterior_logits, strict=True):
        mixture = sum(math.exp(log_channel(r, code, p)) for code in codes) / len(codes)
        values.append(log_posterior(r, logits) - math.log(mixture))
    return values


def authors_loss(
    code_logits: Rows, posterior_logits: Rows, noise: Rows, p: float, divide: bool = False
) -> list[float]:
    """-sum_k [c~ l/2 - log cosh(l/2)] + logsumexp_j kappa <c~, c_j>, codes relaxed to tanh.

    The authors' queue divides by kappa.
    """
    kappa = 0.5 * math.log((1 - p) / p)
    kappa = 1 / kappa if divide else kappa
    codes = [[math.tanh(a) for a in row] for row in code_logits]
    values = []
    for m, code, logits in zip(noise, codes, posterior_logits, strict=True):
        received = [flip * bit for flip, bit in zip(m, code, strict=True)]
        positive = sum(
            r * a / 2 - math.log(math.cosh(a / 2)) for r, a in zip(received, logits, strict=True)
        )
        scores = [kappa * sum(r * c for r, c in zip(received, o, strict=True)) for o in codes]
        values.append(-positive + math.log(sum(math.exp(s) for s in scores)))
    return values


def marginal_bound(
    received: Rows, code_logits: Rows, posterior_logits: Rows, p: float
) -> list[float]:
    """J of received bits whose code is +1 with probability (1 + tanh a) / 2."""
    values = []
    for r, logits in zip(received, posterior_logits, strict=True):
        mixture = 0.0
        for row in code_logits:
            likelihood = 1.0
            for bit, a in zip(r, row, strict=True):
                likelihood *= (1 + bit * (1 - 2 * p) * math.tanh(a)) / 2
            mixture += likelihood / len(code_logits)
        values.append(log_posterior(r, logits) - math.log(mixture))
    return values
