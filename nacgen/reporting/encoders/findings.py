"""Measurements of an encoder in plain words: what was found, beside an untrained encoder, and if it is good."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Values = Mapping[str, Any]
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


def findings(trained: Values, untrained: Values) -> list[Finding]:
    """Describe two reports of `EncoderProbe`, as plain values, of a trained encoder and of an untrained one.

    Measurements that need labels are left out where there are none.
    """
    checks = [_information, _views, _codes, _constant, _copied, _balance, _undecided, _rank]
    found = [check(trained["health"], untrained["health"]) for check in checks]
    found.insert(0, _probe(trained["linear_probe"], untrained["linear_probe"]))
    return [finding for finding in found if finding is not None]


def summary_of(found: list[Finding]) -> str:
    """Return one sentence that counts the verdicts."""
    good, fair, bad = (sum(f.verdict == v for f in found) for v in ("good", "fair", "bad"))
    return (
        f"{good} of {len(found)} checks of the encoder are good, {fair} fair, {bad or 'none'} bad."
    )


def caution(trained: Values) -> list[str]:
    """Return a sentence for a report of `EncoderProbe` on so few images that its checks say little, or none."""
    count = trained["health"]["protocol"]["num_images"]
    if count >= FEW_IMAGES:
        return []
    return [f"Only {count} held-out images were measured: read these checks with care."]


def _by_limits(value: float, limits: tuple[float, float]) -> Verdict:
    return "good" if value <= limits[0] else "fair" if value <= limits[1] else "bad"


def _finding(what: str, trained: str, untrained: str, verdict: Verdict, **reasons: str) -> Finding:
    """Make a finding whose reason is that of its verdict."""
    return Finding(what, trained, untrained, verdict, reasons[verdict])


def _probe(now: float | None, before: float | None) -> Finding | None:
    if now is None or before is None:
        return None
    return _finding(
        "Held-out images that a linear classifier on the features gets right",
        f"{now:.1%}",
        f"{before:.1%}",
        "good" if now > before else "bad",
        good="Pretraining helped.",
        bad="Random weights do as well: pretraining did not help.",
    )


def _information(now: Values, before: Values) -> Finding:
    now, before = now["information"], before["information"]
    bound, most = now["nac_bound"], min(now["batch_ceiling"], now["channel_ceiling"])
    some: Verdict = "good" if bound > before["nac_bound"] else "fair"
    carries = "The code carries information about the image, and this much at least."
    return _finding(
        "Information about the image in a noisy code, a lower bound",
        f"{bound:.2f} of at most {most:.2f} nats",
        f"{before['nac_bound']:.2f} nats",
        some if bound > 0 else "bad",
        good=carries,
        fair=carries,
        bad="Nothing shows that the code tells anything about the image. Train longer.",
    )


def _views(now: Values, before: Values) -> Finding:
    share = now["view_flip_rate"] / max(now["image_flip_rate"], 1e-9)
    return _finding(
        "Bits that change in another view of the image, and in another image",
        f"{now['view_flip_rate']:.1%}, {now['image_flip_rate']:.1%}",
        f"{before['view_flip_rate']:.1%}, {before['image_flip_rate']:.1%}",
        _by_limits(share, MOST_FLIPPED) if now["image_flip_rate"] > 0 else "bad",
        good="Views of one image have similar codes, other images have not.",
        fair="Views of one image are only a little more alike than other images. Train longer.",
        bad="The code does not recognize an image in another view.",
    )


def _codes(now: Values, before: Values) -> Finding:
    count, effective = now["protocol"]["num_images"], now["effective_codes"]
    return _finding(
        "Different codes",
        f"{now['distinct_codes']} of {count} images",
        f"{before['distinct_codes']}",
        "good" if effective > count / 2 else "fair" if effective >= 2 else "bad",
        good="Most images have a code of their own.",
        fair="Many images share a code. More bits or longer training give more.",
        bad="The code has collapsed: it is the same for almost all images.",
    )


def _constant(now: Values, before: Values) -> Finding:
    return _finding(
        "Bits that never change",
        f"{now['constant_bits']} of {now['protocol']['code_dim']}",
        f"{before['constant_bits']}",
        "good" if now["constant_bits"] == 0 else "bad",
        good="Every bit is of use.",
        bad="They are the same for all images and tell nothing.",
    )


def _copied(now: Values, before: Values) -> Finding:
    return _finding(
        "Bits that repeat another bit",
        f"{now['copied_bits']} of {now['protocol']['code_dim']}",
        f"{before['copied_bits']}",
        "good" if now["copied_bits"] == 0 else "bad",
        good="Every bit is of use.",
        bad="They tell nothing that another bit does not.",
    )


def _balance(now: Values, before: Values) -> Finding:
    return _finding(
        "Distance of a bit from being set in half of the images, on average",
        f"{now['imbalance']:.1%}",
        f"{before['imbalance']:.1%}",
        _by_limits(now["imbalance"], MOST_IMBALANCE),
        good="A bit is set in about half of the images, where it tells most.",
        fair="Many bits are set in far more or far fewer than half of the images.",
        bad="Most bits are nearly the same for all images.",
    )


def _undecided(now: Values, before: Values) -> Finding:
    return _finding(
        "Bits near their threshold",
        f"{now['narrow_share']:.1%}",
        f"{before['narrow_share']:.1%}",
        _by_limits(now["narrow_share"], MOST_UNDECIDED),
        good="Few bits hang on a small change of the image.",
        fair="Many bits hang on a small change of the image.",
        bad="Most bits hang on a small change of the image: the code is undecided.",
    )


def _rank(now: Values, before: Values) -> Finding | None:
    rank, size = now["feature_rank"], now["protocol"]["feature_dim"]
    if rank is None or before["feature_rank"] is None:
        return None
    return _finding(
        "Directions in which the features vary",
        f"{rank:.1f} of {size}",
        f"{before['feature_rank']:.1f}",
        "good" if rank >= max(2, size / 10) else "fair" if rank >= 2 else "bad",
        good="The features vary in many directions.",
        fair="The features vary in few directions.",
        bad="The features have collapsed: they vary in one direction.",
    )
