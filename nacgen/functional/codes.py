"""What binary codes and their posterior are like: correlation of bits, calibration, effective rank."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CALIBRATION_BINS = 15
RANK_OFFSET = 1e-7  # of RankMe's shares


def bit_correlation(codes: Bool[Tensor, "m k"]) -> Float[Tensor, "c c"]:
    """Absolute correlation of every two bits that change.

    Args:
        codes: One code a row.

    Returns:
        Float64, in [0, 1] above the diagonal and 0 elsewhere; constant bits, which have no correlation, are
        left out.
    """
    centered = codes.double() - codes.double().mean(0)
    norms = centered.norm(dim=0)
    changing = codes.any(0) & ~codes.all(0)
    centered = centered[:, changing] / norms[changing]
    correlation: Tensor = centered.T @ centered
    return correlation.abs().clamp_max(1).triu(1)


def effective_codes(codes: Bool[Tensor, "m k"]) -> Float[Tensor, ""]:
    """Effective number of different codes, `1 / sum p^2` of their shares, without waiting for the device.

    The exponential of the Rényi-2 entropy: 1 where all codes are one, `m` where no two are equal.

    Args:
        codes: One code a row.

    Returns:
        Between 1 and `m`.
    """
    signs = torch.where(codes, 1.0, -1.0)
    is_equal = (
        signs @ signs.T > codes.shape[1] - 1
    )  # (m, m); codes that differ fall short by 2 or more
    return len(codes) ** 2 / is_equal.sum()


def calibration_error(
    posterior_logits: Float[Tensor, "m k"], codes: Bool[Tensor, "m k"], flip_probability: float
) -> float:
    """Expected calibration error of the posterior's probability that a received bit is +1.

    The channel's noise is averaged out: a bit sent as +1 is received as +1 in a share `1 - p` of cases.

    Args:
        posterior_logits: Log odds that each received bit is +1.
        codes: The bits sent.
        flip_probability: Of the channel.

    Returns:
        Mean `|predicted - true share|` over 15 bins of equal width, weighted by their bits; 0 to 1.

    Source:
        Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    predicted = torch.sigmoid(posterior_logits.double()).flatten()
    sent = codes.flatten().double()
    received = sent + flip_probability * (1 - 2 * sent)
    bins = (predicted * CALIBRATION_BINS).long().clamp_max(CALIBRATION_BINS - 1)
    gap = torch.bincount(bins, predicted - received, minlength=CALIBRATION_BINS)
    return float(gap.abs().sum() / len(predicted))


def rank_me(features: Float[Tensor, "n d"]) -> float:
    """RankMe: the exponential of the entropy of the features' normalised singular values.

    Args:
        features: One row an image, not centred.

    Returns:
        Between 1 and `min(n, d)` up to the offset of 1e-7; 0 where all features are zero.

    Source:
        Garrido et al. 2023, arXiv:2210.02885, equation 1.
    """
    x = features.double()
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    if float(singular.sum()) == 0:
        return 0.0
    shares = singular / singular.sum() + RANK_OFFSET
    return float(torch.special.entr(shares).sum().exp())
