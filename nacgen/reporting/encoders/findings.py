"""Measurements of an encoder in plain words: what was found, beside an untrained encoder, and if it is good."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["good", "fair", "bad"]
# The largest values that are good and fair; a code above the second is of no use for what the row is about.
MOST_IMBALANCE, MOST_UNDECIDED, MOST_FLIPPED = (0.1, 0.25), (0.25, 0.5), (0.5, 0.9)
FEW_IMAGES = 100  # fewer than these make a check unreliable


@dataclass(frozen=True)
class Finding:
    """One measurement in words."""

    what: str
    trained: str
    untrained: str
    verdict: Verdict
    reason: str


def findings(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> list[Finding]:
    """Describe two reports of `EncoderProbe`, as plain values, of a trained encoder and of an untrained one.

    Measurements that need labels are left out where there are none.
    """
    rows = [_probe, _information, _views, _codes, _constant, _copied, _balance, _undecided, _rank]
    found = (row(trained, untrained) for row in rows)
    return [finding for finding in found if finding is not None]


def summary_of(found: list[Finding]) -> str:
    """Return one sentence that counts the verdicts."""
    good, fair, bad = (sum(f.verdict == v for f in found) for v in ("good", "fair", "bad"))
    return (
        f"{good} of {len(found)} checks of the encoder are good, {fair} fair, {bad or 'none'} bad."
    )


def caution(trained: Mapping[str, Any]) -> list[str]:
    """Return a sentence for a report of `EncoderProbe` on so few images that its checks say little, or none."""
    count = trained["health"]["protocol"]["num_images"]
    if count >= FEW_IMAGES:
        return []
    return [f"Only {count} held-out images were measured: read these checks with care."]


def _by_limits(value: float, limits: tuple[float, float]) -> Verdict:
    return "good" if value <= limits[0] else "fair" if value <= limits[1] else "bad"


def _probe(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding | None:
    now, before = trained["linear_probe"], untrained["linear_probe"]
    if now is None or before is None:
        return None
    better = now > before
    return Finding(
        "Held-out images that a linear classifier on the features gets right",
        f"{now:.1%}",
        f"{before:.1%}",
        "good" if better else "bad",
        "Pretraining helped." if better else "Random weights do as well: pretraining did not help.",
    )


def _information(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding:
    now, before = (r["health"]["information"] for r in (trained, untrained))
    bound, most = now["nac_bound"], min(now["batch_ceiling"], now["channel_ceiling"])
    verdict: Verdict = "bad"
    reason = "Nothing shows that the code tells anything about the image. Train longer."
    if bound > 0:
        verdict = "good" if bound > before["nac_bound"] else "fair"
        reason = "The code carries information about the image, and this much at least."
    return Finding(
        "Information about the image in a noisy code, a lower bound",
        f"{bound:.2f} of at most {most:.2f} nats",
        f"{before['nac_bound']:.2f} nats",
        verdict,
        reason,
    )


def _views(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding:
    now, before = trained["health"], untrained["health"]
    reasons = {
        "good": "Views of one image have similar codes, other images have not.",
        "fair": "Views of one image are only a little more alike than other images. Train longer.",
        "bad": "The code does not recognize an image in another view.",
    }
    share = now["view_flip_rate"] / max(now["image_flip_rate"], 1e-9)
    verdict = _by_limits(share, MOST_FLIPPED) if now["image_flip_rate"] > 0 else "bad"
    return Finding(
        "Bits that change in another view of the image, and in another image",
        f"{now['view_flip_rate']:.1%}, {now['image_flip_rate']:.1%}",
        f"{before['view_flip_rate']:.1%}, {before['image_flip_rate']:.1%}",
        verdict,
        reasons[verdict],
    )


def _codes(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding:
    now, before = trained["health"], untrained["health"]
    count, effective = now["protocol"]["num_images"], now["effective_codes"]
    verdict: Verdict = "good" if effective > count / 2 else "fair" if effective >= 2 else "bad"
    reasons = {
        "good": "Most images have a code of their own.",
        "fair": "Many images share a code. More bits or longer training give more.",
        "bad": "The code has collapsed: it is the same for almost all images.",
    }
    return Finding(
        "Different codes",
        f"{now['distinct_codes']} of {count} images",
        f"{before['distinct_codes']}",
        verdict,
        reasons[verdict],
    )


def _bits(
    what: str, key: str, fault: str, trained: Mapping[str, Any], untrained: Mapping[str, Any]
) -> Finding:
    now, before = trained["health"], untrained["health"]
    is_good = now[key] == 0
    return Finding(
        what,
        f"{now[key]} of {now['protocol']['code_dim']}",
        f"{before[key]}",
        "good" if is_good else "bad",
        "Every bit is of use." if is_good else fault,
    )


def _constant(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding:
    fault = "They are the same for all images and tell nothing."
    return _bits("Bits that never change", "constant_bits", fault, trained, untrained)


def _copied(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding:
    fault = "They tell nothing that another bit does not."
    return _bits("Bits that repeat another bit", "copied_bits", fault, trained, untrained)


def _balance(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding:
    now, before = trained["health"]["imbalance"], untrained["health"]["imbalance"]
    verdict = _by_limits(now, MOST_IMBALANCE)
    reasons = {
        "good": "A bit is set in about half of the images, where it tells most.",
        "fair": "Many bits are set in far more or far fewer than half of the images.",
        "bad": "Most bits are nearly the same for all images.",
    }
    what = "Distance of a bit from being set in half of the images, on average"
    return Finding(what, f"{now:.1%}", f"{before:.1%}", verdict, reasons[verdict])


def _undecided(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding:
    now, before = trained["health"]["narrow_share"], untrained["health"]["narrow_share"]
    verdict = _by_limits(now, MOST_UNDECIDED)
    reasons = {
        "good": "Few bits hang on a small change of the image.",
        "fair": "Many bits hang on a small change of the image.",
        "bad": "Most bits hang on a small change of the image: the code is undecided.",
    }
    return Finding(
        "Bits near their threshold", f"{now:.1%}", f"{before:.1%}", verdict, reasons[verdict]
    )


def _rank(trained: Mapping[str, Any], untrained: Mapping[str, Any]) -> Finding | None:
    now, before = trained["health"], untrained["health"]
    if now["feature_rank"] is None or before["feature_rank"] is None:
        return None
    size, rank = now["protocol"]["feature_dim"], now["feature_rank"]
    verdict: Verdict = "good" if rank >= max(2, size / 10) else "fair" if rank >= 2 else "bad"
    reasons = {
        "good": "The features vary in many directions.",
        "fair": "The features vary in few directions.",
        "bad": "The features have collapsed: they vary in one direction.",
    }
    return Finding(
        "Directions in which the features vary",
        f"{rank:.1f} of {size}",
        f"{before['feature_rank']:.1f}",
        verdict,
        reasons[verdict],
    )
