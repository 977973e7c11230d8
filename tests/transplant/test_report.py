import re

import pytest
from torch import nn

from nacgen.models.encoder import NACEncoder
from nacgen.transplant.report import flop_share
from nacgen.transplant.transplant import transplant
from tests.transplant.conftest import images


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("encoder", r"mode init: \d+ tensors of the encoder loaded, \d+ left behind, \d+% of"),
        (
            "random",
            r"mode init: a control with the encoder's architecture and random weights in \d+%",
        ),
        (
            "shuffled",
            r"mode init: a control with \d+ tensors of the encoder, each shuffled, in \d+%",
        ),
    ],
)
def test_the_report_says_where_weights_come_from(
    encoder: NACEncoder, source: str, said: str
) -> None:
    part = transplant(
        encoder,
        source=source,  # type: ignore[arg-type]
        image_size=16,
        calibration_images=images(),
    )
    assert re.search(said, str(part.report))
    assert ("loaded" in str(part.report)) == (source == "encoder")


def test_the_table_says_what_became_of_every_tensor(encoder: NACEncoder) -> None:
    report = transplant(encoder, image_size=16).report
    assert {*report.loaded, *report.skipped} == set(encoder.state_dict())
    assert report.loaded["backbone.layer1.0.bn2.bias"] == "trunk.backbone.layer1.0.conv2"
    text = report.to_markdown()
    assert text.startswith("# Transplant into discriminator\n")
    for row in (
        "| mode | init |",
        f"| share of parameters | {report.parameter_share:.1%} |",
        f"| share of FLOPs | {report.flop_share:.1%} |",
        "| trainable parameters | 100.0% |",
        "| left behind | 9 | `backbone.bn1`, `backbone.layer1`, `backbone.layer2`, `backbone.layer3` | "
        "BatchNorm's counter has no use once folded |",
        "| untouched | 5 | `heads.layer3` | the target's own |",
    ):
        assert f"\n{row}\n" in text
    counts = [
        int(row.split("|")[2]) for row in text.splitlines() if re.match(r"\| (loaded|left)", row)
    ]
    assert sum(counts) == len(encoder.state_dict())


def test_shares_are_counted_by_hand() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    module = nn.Sequential(body, nn.Flatten(), nn.Linear(4 * 8 * 8, 10)).train()
    convolution, linear = 3 * 4 * 9 * 8 * 8, 4 * 8 * 8 * 10  # multiplications
    share = flop_share(module, (images(1, 8),), ["0"])
    assert share == pytest.approx(convolution / (convolution + linear))


def test_shares_of_parameters(encoder: NACEncoder) -> None:
    part = transplant(encoder, mode="partial", image_size=16)
    trunk = sum(p.numel() for p in part.module.trunk.parameters())
    total = sum(p.numel() for p in part.module.parameters())
    frozen = sum(p.numel() for p in part.module.parameters() if not p.requires_grad)
    assert part.report.parameter_share == pytest.approx(trunk / total)
    assert part.report.trainable_share == pytest.approx(1 - frozen / total)
    assert frozen > 0
