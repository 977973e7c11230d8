"""Set what is measured of the study's encoders against the scores of the GANs that began with them.

    python docs/studies/predictors.py RUNS DATA PICTURE

RUNS holds the encoders and the folder `tenth` of `docs/study.md`, DATA is its tenth. Writes a scatter, and prints
Spearman's rank correlations with 95 % bootstrap intervals over encoders, over all of them and within objectives.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from nacgen.data.datasets import load_splits
from nacgen.data.pixels import to_float
from nacgen.functional.alignment import spatial_structure
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.build import build_views
from nacgen.pretraining.options import ViewConfig
from nacgen.probes.features import extract
from nacgen.probes.regions.regions import measure_regions
from nacgen.probes.report import thin
from nacgen.probes.retrieval.evaluate import evaluate_retrieval

OBJECTIVES = ("nac", "simclr", "supervised")
SEEDS = range(8)
NUM_QUERIES, NUM_MAPS, NUM_SEGMENTS = 1_000, 1_000, 16
DRAWS = 10_000
PREDICTORS = {
    "linear_probe": "linear probe",
    "retrieval": "retrieval by code, mAP",
    "correlation": "correlation of bits",
    "rank": "rank of the features",
    "structure": "spatial structure of the last map",
    "regions": "linear regions between two images",
}


def measure(run: Path, data: Path) -> dict[str, float]:
    """Measure an encoder; linear probe, correlation and rank are those of its own run."""
    summary = json.loads((run / "summary.json").read_text())
    health = summary["health"]
    encoder = NACEncoder.from_pretrained(run / "encoder")
    gallery, test = load_splits("folder", str(data))
    queries = thin(test, NUM_QUERIES)
    assert queries.labels is not None
    assert gallery.labels is not None
    codes = (extract(encoder.codes, images, "cpu") for images in (queries, gallery))
    query, kept = codes
    found = evaluate_retrieval(query, queries.labels, kept, gallery.labels)
    images = queries.read(torch.arange(NUM_MAPS))
    with torch.inference_mode():
        maps = encoder.feature_maps(to_float(images))
    regions = measure_regions(
        encoder.piecewise_linear_logits,
        images,
        build_views(ViewConfig()),
        num_segments=NUM_SEGMENTS,
    )
    return {
        "linear_probe": summary["linear_probe"],
        "retrieval": found.mean_average_precision,
        "correlation": health["mean_correlation"],
        "rank": health["feature_rank"],
        "structure": float(spatial_structure(list(maps.values())[-1]).mean()),
        "regions": regions.between.mean,
    }


def log_scores(run: Path) -> list[float]:
    """Return the logarithms of a run's scores as it trained."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    scores = [row["evaluation"]["scores"] for row in rows if "evaluation" in row]
    return [math.log(next(iter(score.values()))["value"]) for score in scores]


def correlate(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> str:
    """Return rank correlations over all encoders and within objectives, with intervals."""
    draws = np.random.default_rng(0).integers(len(x), size=(DRAWS, len(x)))
    texts = []
    for is_within in (False, True):

        def statistic(rows: np.ndarray, is_within: bool = is_within) -> float:
            a, b = x[rows], y[rows]
            if is_within:
                for group in np.unique(groups[rows]):
                    same = groups[rows] == group
                    a, b = (np.where(same, v - v[same].mean(), v) for v in (a, b))
            return float(spearmanr(a, b).statistic)

        low, high = np.nanquantile([statistic(rows) for rows in draws], (0.025, 0.975))
        texts.append(f"{statistic(np.arange(len(x))):+.2f} | {low:+.2f} to {high:+.2f}")
    return " | ".join(texts)


def main() -> None:
    """Measure all encoders, draw the scatter and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("runs", "data", "picture"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [(objective, seed) for objective in OBJECTIVES for seed in SEEDS]
    found = [measure(options.runs / f"{o}-seed{s}", options.data) for o, s in pairs]
    gains: dict[str, list[float]] = {"at the end": [], "over all of training": []}
    for objective, seed in pairs:
        own, base = (
            log_scores(options.runs / "tenth" / f"{a}-seed{seed}") for a in (objective, "random")
        )
        gains["at the end"].append(own[-1] - base[-1])
        gains["over all of training"].append(float(np.mean(own) - np.mean(base)))
    groups = np.array([objective for objective, _ in pairs])
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True)
    for (name, label), axis in zip(PREDICTORS.items(), axes.flat, strict=True):
        x = np.array([values[name] for values in found])
        for time, gain in gains.items():
            print(f"| {label}, {time} | {correlate(x, np.array(gain), groups)} |", flush=True)
        for objective, marker in zip(OBJECTIVES, "os^", strict=True):
            rows = groups == objective
            change = 100 * np.expm1(np.array(gains["at the end"])[rows])
            axis.scatter(x[rows], change, marker=marker, label=objective, alpha=0.8)
        axis.axhline(0, color="gray", linewidth=0.8)
        axis.set_xlabel(label)
    for axis in axes[:, 0]:
        axis.set_ylabel("score against random, %")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(options.picture, dpi=150)


if __name__ == "__main__":
    main()
