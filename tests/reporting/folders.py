"""Run folders as a training recipe leaves them, made of invented scores."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

PROTOCOL = {
    "extractor": "digits_classifier",
    "extractor_fingerprint": "sha256:0f3a",
    "reference": "digits/train",
    "num_reference": 1442,
    "num_samples": 2000,
    "resize": "none",
    "seed": 0,
    "model": "ema",
}

SCORES = {
    "random": {0: (27.5, 14.0), 1: (32.2, 13.6), 2: (26.6, 15.0)},
    "nac": {0: (25.6, 11.6), 1: (24.4, 11.8), 2: (24.0, 11.8)},
    "shuffled": {0: (28.6, 14.1), 1: (29.4, 13.5), 2: (27.0, 14.8)},
}

MakeRun = Callable[..., Path]


class Reader(HTMLParser):
    """Collects tables as rows of text, tags in order, and all attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tables and self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")


def write_run(
    path: Path,
    scores: dict[int, float],
    *,
    seed: int = 0,
    init: str = "nac",
    metric: str = "fd_digits_classifier",
    protocol: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    is_finished: bool = True,
    warnings: tuple[str, ...] = (),
    bias: float = 0.21,
    environment: dict[str, Any] | None = None,
    pretraining: dict[str, Any] | str | None = None,
) -> Path:
    """Write a run folder with the given scores by images seen."""
    (path / "samples").mkdir(parents=True)
    configuration = {
        "preset": "digits",
        "dataset": "digits",
        "seed": seed,
        "init": init,
        "encoder": "checkpoints/digits-nac",
        "total_images": max(scores),
        "run_dir": str(path),
        "optim": {"learning_rate": 0.0002, "betas": [0.0, 0.99]},
        **(config or {}),
    }
    (path / "config.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    (path / "environment.json").write_text(
        json.dumps({"torch": "2.10.0", "device": "cpu", **(environment or {})})
    )
    rows: list[dict[str, Any]] = []
    for seen, value in scores.items():
        evaluation = {
            "scores": {metric: {"value": value, "raw": value, "bias": bias, "spread": None}},
            "protocol": {**PROTOCOL, **(protocol or {})},
            "warnings": list(warnings),
        }
        rows += [{"images_seen": seen, "loss_generator": 0.7}]
        rows += [{"images_seen": seen, "evaluation": evaluation}]
        pixels = np.random.default_rng([seed, seen]).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / "samples" / f"images_{seen:08d}.png")
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if is_finished:
        summary = {
            "run_dir": str(path),
            "images_seen": max(scores),
            "seconds": 57.25 + seed,
            "images_per_second": 447.2,
            "evaluation": rows[-1]["evaluation"],
            "pretraining": pretraining,
        }
        (path / "summary.json").write_text(json.dumps(summary))
    return path
