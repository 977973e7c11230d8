"""Run folders as a training recipe leaves them, made of invented scores."""

import json
from collections.abc import Callable
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

MakeRun = Callable[..., Path]


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
    (path / "environment.json").write_text(json.dumps({"torch": "2.10.0", "device": "cpu"}))
    rows: list[dict[str, Any]] = []
    for seen, value in scores.items():
        evaluation = {
            "scores": {metric: {"value": value, "raw": value, "bias": 0.21, "spread": None}},
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
        }
        (path / "summary.json").write_text(json.dumps(summary))
    return path
