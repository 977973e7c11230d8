import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

from nacgen.probes.health import code_health
from nacgen.probes.report import ProbeReport
from nacgen.reporting.encoders.findings import caution, findings, summary_of


def probe_report(
    noise: float = 0.3, accuracy: float | None = 0.9, logits: torch.Tensor | None = None
) -> dict[str, Any]:
    """Measure invented codes: those of two views of 64 images differ by noise."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(64, 16, generator=draw) if logits is None else logits
    view_1, view_2 = (images + noise * torch.randn(64, 16, generator=draw) for _ in range(2))
    health = code_health(
        torch.cat([view_1, view_2]),
        3 * torch.cat([view_2, view_1]),
        0.1,
        features=torch.randn(64, 32, generator=draw),
    )
    report: dict[str, Any] = json.loads(json.dumps(asdict(ProbeReport(accuracy, health))))
    return report


def verdicts(trained: dict[str, Any], untrained: dict[str, Any]) -> dict[str, str]:
    return {finding.what: finding.verdict for finding in findings(trained, untrained)}


def test_a_healthy_code_is_good_in_every_check() -> None:
    found = findings(probe_report(), probe_report(noise=3.0, accuracy=0.7))
    assert {finding.verdict for finding in found} == {"good"}, found
    assert len(found) == 9
    assert summary_of(found) == "9 of 9 checks of the encoder are good, 0 fair, none bad."
    assert found[0].trained == "90.0%"
    assert found[0].untrained == "70.0%"


def test_few_held_out_images_are_cautioned_of() -> None:
    trained = probe_report()
    trained["health"]["protocol"]["num_images"] = 99
    assert caution(trained) == [
        "Only 99 held-out images were measured: read these checks with care."
    ]
    trained["health"]["protocol"]["num_images"] = 100
    assert caution(trained) == []


@pytest.mark.parametrize(
    ("trained", "check", "verdict"),
    [
        (probe_report(accuracy=0.6), "Held-out images that a linear", "bad"),
        (probe_report(noise=30.0), "Information about the image", "bad"),
        (probe_report(noise=30.0), "Bits that change in another view", "bad"),
        (probe_report(noise=1.8), "Bits that change in another view", "fair"),
        (probe_report(logits=torch.ones(64, 16), noise=0.01), "Different codes", "bad"),
        (probe_report(logits=torch.ones(64, 16), noise=0.01), "Bits that never change", "bad"),
        (probe_report(logits=torch.randn(64, 1).expand(64, 16), noise=0.0), "Bits that rep", "bad"),
        (probe_report(logits=torch.randn(64, 16) + 1.5), "Distance of a bit", "bad"),
        (probe_report(logits=0.01 * torch.randn(64, 16), noise=0.0), "Bits near their", "bad"),
    ],
)
def test_what_is_wrong_with_a_code_has_its_verdict(
    trained: dict[str, Any], check: str, verdict: str
) -> None:
    found = findings(trained, probe_report(accuracy=0.7))
    (finding,) = [each for each in found if each.what.startswith(check)]
    assert finding.verdict == verdict


def test_a_collapse_of_the_features_is_bad() -> None:
    trained = probe_report()
    trained["health"]["feature_rank"] = 1.2
    assert verdicts(trained, probe_report())["Directions in which the features vary"] == "bad"


def test_without_labels_there_is_no_accuracy() -> None:
    found = findings(probe_report(accuracy=None), probe_report(accuracy=None))
    assert len(found) == 8
    assert not any("classifier" in finding.what for finding in found)


def test_every_fault_that_code_health_warns_of_is_bad() -> None:
    for trained in (probe_report(logits=torch.ones(64, 16), noise=0.01), probe_report(noise=30.0)):
        bad = list(verdicts(trained, probe_report()).values()).count("bad")
        assert bad >= len(trained["health"]["warnings"]) > 0
