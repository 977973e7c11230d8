"""The bound on the information in an encoder's codes, on images it was not trained on."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nacgen.functional.nac import channel_capacity, nac_bound

SCALES = tuple(2 ** (i / 4) for i in range(-16, 17))  # of the posterior logits, 1/16 to 16


@dataclass(frozen=True)
class CodeInformation:
    """The bound beside its two ceilings, in nats.

    Args:
        nac_bound: Lower bound on I(X; received code), hard codes.
        batch_ceiling: `log m`, the most that `m` codes can show.
        channel_ceiling: `k * capacity`, the most that the channel lets through.
        posterior_scale: Factor on the posterior logits, fitted on other codes.
        bit_agreement: Share of bits that are equal in two views of an image.
    """

    nac_bound: float
    batch_ceiling: float
    channel_ceiling: float
    posterior_scale: float
    bit_agreement: float


def code_information(
    fitting: tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]],
    held_out: tuple[Float[Tensor, "m k"], Float[Tensor, "m k"]],
    flip_probability: float,
) -> CodeInformation:
    """Evaluate the bound with hard codes on held-out images.

    Training relaxes the codes, which leaves the posterior's confidence unfit for hard ones. One factor on its
    logits is fitted first, on other images; the value is a lower bound whatever the factor.

    Args:
        fitting: Code logits and posterior logits of training images, rows as `nac_bound` wants them.
        held_out: The same of test images.
        flip_probability: Of the channel, in (0, 1/2).

    Returns:
        The bound and what it is to be read beside.

    Raises:
        ValueError: As `nac_bound`.
    """
    code_logits, posterior_logits = fitting

    def fitted(scale: float) -> float:
        return float(nac_bound(code_logits, scale * posterior_logits, flip_probability).mean())

    scale = max(SCALES, key=fitted)
    code_logits, posterior_logits = held_out
    bound = nac_bound(code_logits, scale * posterior_logits, flip_probability).mean()
    num_codes, code_dim = code_logits.shape
    view_1, view_2 = (code_logits >= 0).chunk(2)
    return CodeInformation(
        nac_bound=float(bound),
        batch_ceiling=math.log(num_codes),
        channel_ceiling=code_dim * channel_capacity(flip_probability),
        posterior_scale=scale,
        bit_agreement=float(torch.eq(view_1, view_2).float().mean()),
    )
