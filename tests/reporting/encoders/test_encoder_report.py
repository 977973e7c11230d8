import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nacgen.errors import StorageError
from nacgen.reporting.charts import COLORS, IN_THE_DARK
from nacgen.reporting.encoders.encoder_pictures import retrieval_chart
from nacgen.reporting.encoders.encoder_report import (
    Measurement,
    encoder_text,
    write_encoder_report,
    write_results,
)


def results(accuracy: float, precision: float = 0.5) -> dict[str, Any]:
    code = {
        "mean_average_precision": precision,
        "precision_within_radius_2": 0.25,
        "chance": 0.1,
        "curve": {"recall": (0.1, 1.0), "precision": (precision, 0.1)},
        "protocol": {"name": "split", "code_dim": 16, "num_queries_without_relevant": 3},
    }
    return {
        "linear": {
            "1": {"top_1": accuracy, "protocol": {"fraction": 1}},
            "0.1": {"top_1": accuracy / 2, "protocol": {"fraction": 0.1}},
        },
        "retrieval": {"code": code, "itq": code},
        "health": {"warnings": ("the bound is -1 nats",), "protocol": {"num_images": 9}},
    }


MEASUREMENTS = [
    Measurement("NAC", "a/encoder", results(0.9)),
    Measurement("NAC", "b/encoder", results(0.8)),
    Measurement("SimCLR", "c/encoder", results(0.7, 0.4)),
]


def test_seeds_of_one_name_are_one_row_with_their_spread(tmp_path: Path) -> None:
    text = encoder_text(MEASUREMENTS)
    assert "0.850 ± 0.071" in text  # the standard deviation of 0.9 and 0.8
    assert "0.425 ± 0.035" in text  # with 10 % of the labels
    markdown, html = write_encoder_report(MEASUREMENTS, tmp_path, "Encoders on digits", {})
    report = markdown.read_text()
    assert "Linear, 10% of the labels" in report
    assert "| NAC | 2 |" in report
    assert "| SimCLR | 1 | 0.700 | 0.350 |" in report
    assert "16-bit codes" in report
    assert "chance is 0.100" in report
    assert "3 queries have no relevant item" in report
    assert "NAC: the bound is -1 nats" in report
    assert "`b/encoder`" in report
    assert "fraction 0.1" in report  # the protocol
    assert "<table" in html.read_text()


def test_what_was_not_measured_has_no_column(tmp_path: Path) -> None:
    only = [Measurement("NAC", "a", {"linear": results(0.9)["linear"]})]
    text = encoder_text(only)
    assert "0.900" in text
    assert "mAP" not in text
    assert "Bound" not in text


def test_precision_and_recall_are_drawn_for_every_seed(tmp_path: Path) -> None:
    text = retrieval_chart(MEASUREMENTS, tmp_path / "curve.svg").read_text()
    lines = re.findall(r'style="(fill: none; [^"]*stroke-width: 1\.5[^"]*)"', text)
    colors = [re.findall("stroke: (#[0-9a-f]{6})", line)[0] for line in lines]
    curves = [color for color in colors if color in COLORS[:3]]
    assert set(curves) == set(COLORS[:2]), lines  # there is no third encoder
    assert curves.count(COLORS[0]) > curves.count(COLORS[1])  # two seeds
    drawn = set(re.findall("(?:fill|stroke): (#[0-9a-f]{6})", text.partition("</defs>")[2]))
    assert drawn <= set(IN_THE_DARK)  # all follow dark mode


def test_a_name_that_begins_with_an_underscore_is_in_the_legend(tmp_path: Path) -> None:
    named = [replace(MEASUREMENTS[0], name=name) for name in ("_a", "_b")]
    drawn = [retrieval_chart([each], tmp_path / f"{each.name}.png").read_bytes() for each in named]
    assert drawn[0] != drawn[1]


def test_a_chart_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "curve.png"
    with pytest.raises(StorageError, match=f"chart {path} cannot be written"):
        retrieval_chart(MEASUREMENTS, path)


def test_results_are_written_whole_and_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    write_results(MEASUREMENTS[:1], tmp_path / "new")
    write_results(MEASUREMENTS[:2], tmp_path / "new")
    (file,) = (tmp_path / "new").iterdir()
    assert [m["source"] for m in json.loads(file.read_text())] == ["a/encoder", "b/encoder"]
    with pytest.raises(StorageError, match=r"results\.json cannot be .* Choose another --run-dir"):
        write_results(MEASUREMENTS, file)
