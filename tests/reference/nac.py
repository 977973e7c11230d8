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


def closed_form(code_logits: Rows, posterior_logits: Rows, p: float) -> list[float]:
    """The first term bit by bit over both values, less the log of the mean of p(c~ = c~' | x, x_j), per row.

    That is the probability that the codes of two images are received as the same one.
    """

    def ones(a: float) -> float:
        return p + (1 - 2 * p) * (1 + math.tanh(a)) / 2

    values = []
    for row, logits in zip(code_logits, posterior_logits, strict=True):
        first = 0.0
        for a, posterior in zip(row, logits, strict=True):
            first += ones(a) * log_posterior([1.0], [posterior])
            first += (1 - ones(a)) * log_posterior([-1.0], [posterior])
        equal = 0.0
        for other in code_logits:
            likelihood = 1.0
            for a, b in zip(row, other, strict=True):
                likelihood *= ones(a) * ones(b) + (1 - ones(a)) * (1 - ones(b))
            equal += likelihood / len(code_logits)
        values.append(first - math.log(equal))
    return values


def direction(code_logits: Rows, other_logits: Rows, p: float) -> list[float]:
    """e kappa <n, n'> + K/2 log(p(1 - p)) - log 1/M sum_j exp(kappa2 <n, n_j>) - K/2 log((1 - e^4) / 4)."""
    e = 1 - 2 * p

    def stretched(rows: Rows) -> Rows:
        relaxed = [[math.tanh(a) for a in row] for row in rows]
        lengths = [math.sqrt(sum(t * t for t in row)) for row in relaxed]
        root = math.sqrt(len(rows[0]))
        return [[root * t / n for t in row] for row, n in zip(relaxed, lengths, strict=True)]

    codes, others, bits = stretched(code_logits), stretched(other_logits), len(code_logits[0])
    values = []
    for row, other in zip(codes, others, strict=True):
        cosine = sum(a * b for a, b in zip(row, other, strict=True))
        first = e * math.atanh(e) * cosine + bits / 2 * math.log(p * (1 - p))
        products = [sum(a * b for a, b in zip(row, key, strict=True)) for key in codes]
        mean = sum(math.exp(math.atanh(e * e) * x) for x in products) / len(codes)
        values.append(first - math.log(mean) - bits / 2 * math.log((1 - e**4) / 4))
    return values
