"""Measures of binary codes and of their posterior: correlation of bits, calibration, effective rank."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nacgen.functional.features import block_rows, products_with

CALIBRATION_BINS = 15
RANK_OFFSET = 1e-7  # added to RankMe's probabilities


def bit_correlation(codes: Bool[Tensor, "m k"]) -> Float[Tensor, "c c"]:
    """Compute the absolute correlation of every two bits that are not constant, above the diagonal.

    All other entries are 0. Constant bits are left out, so the matrix can be smaller than `k` by `k`.

    Example:
        >>> bit_correlation(torch.tensor([[True, True], [False, False]])).round()
        tensor([[0., 1.],
                [0., 0.]], dtype=torch.float64)
    """
    centered = codes.double() - codes.double().mean(0)
    norms = centered.norm(dim=0)
    changing = codes.any(0) & ~codes.all(0)
    centered = centered[:, changing] / norms[changing]
    correlation: Tensor = centered.T @ centered
    return correlation.abs().clamp_max(1).triu(1)


def effective_codes(codes: Bool[Tensor, "m k"]) -> Float[Tensor, ""]:
    """Compute the effective number of different codes, `1 / sum p^2` over their relative frequencies `p`.

    This is the exponential of the Rényi-2 entropy: 1 if all codes are equal, `m` if no two are.

    Example:
        >>> effective_codes(torch.tensor([[True, False], [True, True]]))
        tensor(2.)
    """
    signs = torch.where(codes, 1.0, -1.0)
    num_equal = torch.zeros((), dtype=torch.int64, device=codes.device)
    for _, products in products_with(signs, signs, block_rows(signs)):
        num_equal += products.gt_(codes.shape[1] - 1).sum().long()  # others fall short by 2 or more
    return len(codes) ** 2 / num_equal


def calibration_error(
    posterior_logits: Float[Tensor, "m k"], codes: Bool[Tensor, "m k"], flip_probability: float
) -> float:
    """Compute the expected calibration error, in [0, 1], of the posterior's probability that a received bit is +1.

    It is taken over 15 bins of equal width. `codes` are the bits that were sent. The noise of the channel is
    averaged out: a bit sent as +1 is received as +1 with probability `1 - flip_probability`.

    Example:
        >>> calibration_error(torch.zeros(2, 1), torch.tensor([[True], [False]]), 0.1)
        0.0

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    predicted = torch.sigmoid(posterior_logits.double()).flatten()
    sent = codes.flatten().double()
    received = sent + flip_probability * (1 - 2 * sent)
    bins = (predicted * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
    gap = torch.bincount(bins, predicted - received, minlength=CALIBRATION_BINS)
    return float(gap.abs().sum() / len(predicted))


def rank_me(features: Float[Tensor, "n d"]) -> float:
    """Compute RankMe, the exponential of the entropy of the features' normalized singular values.

    The features are not centered. The rank lies between 1 and `min(n, d)`; it is 0 if all features are zero.

    Example:
        >>> round(rank_me(torch.eye(4)), 3)
        4.0

    Source: Garrido et al. 2023, arXiv:2210.02885, equation 1.
    """
    x = features.double()
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    if float(singular.sum()) == 0:
        return 0.0
    probabilities = singular / singular.sum() + RANK_OFFSET
    return float(torch.special.entr(probabilities).sum().exp())
