"""Health of an activation code: use, independence, confidence and stability of its bits.

Cheap enough to be computed during training. Every figure that means a collapse becomes a warning.
"""

import math
from bisect import bisect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nacgen.functional.codes import CALIBRATION_BINS, bit_correlation, calibration_error, rank_me
from nacgen.functional.nac import channel_capacity, nac_bound
from nacgen.probes.labeled import check_finite
from nacgen.probes.regions.patterns import count_patterns

SCALES = tuple(2 ** (i / 4) for i in range(-16, 17))  # of the posterior logits, 1/16 to 16
NARROW_MARGIN = 0.1  # of a logit: tanh is linear there, and the code all but undecided
NUM_WORST = 5
COPIES = 0.99  # correlation, of either sign, from which two bits are one
ALIKE = 0.9  # of the image flip rate: views that flip as many bits carry no information


@dataclass(frozen=True)
class CodeInformation:
    """The NAC bound beside its two ceilings, in nats."""

    nac_bound: float  # lower bound on I(X; received code), for hard codes
    batch_ceiling: float  # `log m`, the largest bound that `m` codes can show
    channel_ceiling: float  # `k * capacity`, the largest information that the channel lets through
    posterior_scale: float  # factor on the logits, geometric mean over the two halves of the images
    bit_agreement: float  # fraction of bits that are equal in two views of an image


@dataclass(frozen=True)
class CodeHealth:
    """Statistics of an encoder's code on two views of some images; entropies are in nats."""

    imbalance: float  # mean over bits of `|frequency of +1 - 1/2|`, 0 to 0.5
    worst_bits: tuple[tuple[int, float], ...]  # the most unbalanced, as (bit, frequency of +1)
    constant_bits: int  # number of bits that never change
    # Mean `|correlation|` of two bits, None with fewer than two that change. Independent bits show about
    # `0.8 / sqrt(rows)`.
    mean_correlation: float | None
    max_correlation: float | None  # largest `|correlation|` of two bits
    copied_bits: int  # number equal or opposite to an earlier one, up to 1 % of correlation
    bit_entropy: float  # sum of the bits' entropies, an upper bound on the entropy of the code
    code_entropy: float  # entropy of the codes seen, at most `log rows`
    distinct_codes: int  # number of different codes of the first views
    effective_codes: float  # `1 / sum p^2` of the codes' frequencies, at most the number of images
    mean_margin: float  # mean `|code logit|`
    narrow_share: float  # fraction of code logits with a margin below 0.1
    view_flip_rate: float  # fraction of bits that differ between two views of an image
    image_flip_rate: float  # fraction of bits that differ between two random rows, at most a half
    calibration_error: float  # of the posterior, without the fitted factor
    # RankMe of the features, their effective number of dimensions; None without features.
    feature_rank: float | None
    information: CodeInformation
    warnings: tuple[str, ...]  # faults of the code in words; empty for a healthy code
    protocol: dict[str, Any]  # everything that changes the figures

    def __str__(self) -> str:
        """Return a few lines for a terminal."""
        info, made_of = self.information, self.protocol
        correlation = (
            "undefined"
            if self.mean_correlation is None
            else f"{self.mean_correlation:.3f} (largest {self.max_correlation:.2f})"
        )
        rank = "" if self.feature_rank is None else f"; feature rank {self.feature_rank:.1f}"
        lines = [
            f"codes: {self.distinct_codes} distinct of {made_of['num_images']}, effective number "
            f"{self.effective_codes:.1f}, entropy {self.code_entropy:.2f} nats "
            f"(sum over bits: {self.bit_entropy:.2f}){rank}",
            f"bits: imbalance {self.imbalance:.3f}, {self.constant_bits} constant, correlation {correlation}, "
            f"margin {self.mean_margin:.2f} ({self.narrow_share:.1%} below {NARROW_MARGIN})",
            f"flipped bits: {self.view_flip_rate:.1%} by another view, {self.image_flip_rate:.1%} by another "
            f"image, {made_of['flip_probability']:.1%} by the channel; calibration error "
            f"{self.calibration_error:.3f}",
            f"bound {info.nac_bound:.2f} nats (ceilings: {info.batch_ceiling:.2f} by the number of codes, "
            f"{info.channel_ceiling:.2f} by the channel)",
        ]
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])


def code_health(
    code_logits: Float[Tensor, "m k"],
    posterior_logits: Float[Tensor, "m k"],
    flip_probability: float,
    *,
    features: Float[Tensor, "n d"] | None = None,
) -> CodeHealth:
    """Compute the statistics of an activation code, and warnings.

    The bound is that of hard codes, which the posterior's confidence was not trained for. Therefore the
    posterior logits of each half of the images are first multiplied by a factor fitted on the other half.

    Code rows are all first views, then all second views of the same images. Row `i` of the posterior is
    predicted from the *other* view of row `i`'s image, as in `nac_bound`. `features`, of any images, are for
    their rank.
    """
    check_finite("code_logits", code_logits)
    check_finite("posterior_logits", posterior_logits)
    if features is not None:
        check_finite("features", features)
    num_rows, code_dim = code_logits.shape
    if num_rows % 2 or num_rows < 4:
        raise ValueError(
            f"code_logits must hold two views of two images or more, got {num_rows} rows. Give all first "
            "views, then all second ones."
        )
    # Bound, with the posterior's confidence fitted on the other images.
    codes = code_logits >= 0
    scales = _fit_scales(posterior_logits, codes, flip_probability)
    bound = nac_bound(code_logits, scales * posterior_logits, flip_probability).mean()
    # Bits and codes.
    view_1, view_2 = codes.chunk(2)
    flips = float((view_1 != view_2).double().mean())
    frequency = codes.double().mean(0)  # of +1
    worst = (frequency - 0.5).abs().argsort(descending=True, stable=True)[:NUM_WORST]
    correlation = bit_correlation(codes)  # upper triangle of the bits that change
    pairs = max(1, correlation.shape[0] * (correlation.shape[0] - 1) // 2)
    has_pairs = correlation.shape[0] > 1
    images, rows = count_patterns(view_1), count_patterns(codes)
    margin = code_logits.abs()
    figures: dict[str, Any] = {
        "imbalance": float((frequency - 0.5).abs().mean()),
        "worst_bits": tuple((int(bit), float(frequency[bit])) for bit in worst),
        "constant_bits": int(((frequency == 0) | (frequency == 1)).sum()),
        "mean_correlation": float(correlation.sum()) / pairs if has_pairs else None,
        "max_correlation": float(correlation.max()) if has_pairs else None,
        "copied_bits": int((correlation >= COPIES).any(0).sum()),
        "bit_entropy": float(
            (torch.special.entr(frequency) + torch.special.entr(1 - frequency)).sum()
        ),
        "code_entropy": rows.entropy,
        "distinct_codes": images.distinct,
        "effective_codes": images.effective,
        "mean_margin": float(margin.double().mean()),
        "narrow_share": float((margin < NARROW_MARGIN).double().mean()),
        "view_flip_rate": flips,
        "image_flip_rate": float((2 * frequency * (1 - frequency)).mean()),
        "calibration_error": calibration_error(posterior_logits, codes, flip_probability),
        "feature_rank": None if features is None else rank_me(features),
        "information": CodeInformation(
            nac_bound=float(bound),
            batch_ceiling=math.log(num_rows),
            channel_ceiling=code_dim * channel_capacity(flip_probability),
            posterior_scale=float(scales.log().mean().exp()),
            bit_agreement=1 - flips,
        ),
        "protocol": {
            "num_images": num_rows // 2,
            "code_dim": code_dim,
            "flip_probability": flip_probability,
            "posterior_scale": "fitted on the other half of the images",
            "narrow_margin": NARROW_MARGIN,
            "calibration_bins": CALIBRATION_BINS,
            "num_features": None if features is None else len(features),
            "feature_dim": None if features is None else features.shape[1],
        },
    }
    return CodeHealth(**figures, warnings=tuple(_warnings(figures)))


def _fit_scales(posterior_logits: Tensor, codes: Tensor, flip_probability: float) -> Tensor:
    """Return a factor on each row's logits, (m, 1), the likeliest for the other half of the images."""
    received = torch.where(codes, 1 - flip_probability, flip_probability)
    image = torch.arange(len(codes), device=codes.device) % (len(codes) // 2)
    scales = torch.ones_like(posterior_logits[:, :1])
    for half in (0, 1):
        other = image % 2 != half
        scales[image % 2 == half] = _likeliest_scale(posterior_logits[other], received[other])
    return scales


def _likeliest_scale(logits: Tensor, received: Tensor) -> float:
    """Return the first of `SCALES` at which the log-likelihood, concave in the factor, falls."""

    def fall(scale: float) -> float:
        return float(((torch.sigmoid(scale * logits) - received) * logits).sum())

    return SCALES[min(bisect(SCALES, 0.0, key=fall), len(SCALES) - 1)]


def _warnings(figures: dict[str, Any]) -> list[str]:
    """Describe in words what is wrong with a code."""
    protocol, bound = figures["protocol"], figures["information"].nac_bound
    code_dim, rank = protocol["code_dim"], figures["feature_rank"]
    codes, narrow = figures["effective_codes"], figures["narrow_share"]
    constant, copied = figures["constant_bits"], figures["copied_bits"]
    view, image = figures["view_flip_rate"], figures["image_flip_rate"]
    found = {
        f"effective number of codes {codes:.1f} of {protocol['num_images']}: collapsed": codes < 2,
        f"{constant} of {code_dim} bits are constant": constant > 0,
        f"{copied} of {code_dim} bits repeat another one": copied > 0,
        f"{narrow:.0%} of code logits lie within {NARROW_MARGIN} of zero: the code is undecided": (
            narrow > 0.5
        ),
        f"two views of an image differ in {view:.1%} of bits, two images in {image:.1%}: the code does "
        "not recognize the same image": view > ALIKE * image,
        f"the bound is {bound:.2f} nats: it shows no information about the image": bound <= 0,
    }
    if rank is not None:
        found[f"feature rank {rank:.1f} of {protocol['feature_dim']}: collapsed"] = rank < 2
    return [warning for warning, is_true in found.items() if is_true]
