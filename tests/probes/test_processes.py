"""Two processes measure what one measures."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.datasets import load_splits
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.functional.nac import marginal_posterior_logits
from nacgen.models.encoder import NACEncoder
from nacgen.probes.features import extract
from nacgen.probes.health import code_health
from nacgen.probes.knn import knn_probe
from nacgen.probes.linear import fit_linear
from nacgen.probes.linear_sgd import linear_probe_sgd
from nacgen.probes.regions.regions import measure_regions
from nacgen.probes.report import EncoderProbe
from nacgen.probes.retrieval.evaluate import evaluate_retrieval
from nacgen.probes.retrieval.protocols import open_protocol
from tests.launch import two_processes

ROOT = Path(__file__).parents[2]
VIEWS = ViewPolicy(crop_scale=(0.5, 1.0), flip=False)
PROGRAM = """
import json, os, sys, torch.distributed as dist
from tests.probes.test_processes import measured
dist.init_process_group("gloo")
json.dump(measured(), open(sys.argv[1] + os.environ["RANK"], "w"))
"""


def measured() -> dict[str, Any]:
    """Measure a plain module of torch by every evaluator, and an encoder; results as JSON."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 16)
    ).eval()
    train, test = load_splits("digits")
    train, test = (part.subset(torch.arange(0, len(part), 3)) for part in (train, test))
    labeled = extract(network, train), train.labels, extract(network, test), test.labels
    images, protocol = open_protocol("split", train, test)
    codes, labels = extract(lambda x: network(x) >= 0, images), images.labels
    batch = Batch(test.read(torch.arange(60)), None, 0, 0, 60, 0)
    with torch.no_grad():
        view_1, view_2 = (network(random_view(batch, VIEWS, name)) for name in ("1", "2"))
    posterior = marginal_posterior_logits(torch.cat([view_2, view_1]), 0.1)
    results = {
        "linear": fit_linear(*labeled),
        "linear_sgd": linear_probe_sgd(network, train, test, epochs=2, batch_size=100),
        "knn": knn_probe(*labeled, (20,))[0],
        "retrieval": evaluate_retrieval(
            *(codes[protocol.query], labels[protocol.query]),
            *(codes[protocol.gallery], labels[protocol.gallery]),
            protocol=protocol,
        ),
        "health": code_health(torch.cat([view_1, view_2]), posterior, 0.1, features=labeled[2]),
        "regions": measure_regions(network, batch.images, VIEWS, num_segments=2),
        "encoder": EncoderProbe(train, test, VIEWS)(trained_apart(train.images)),
    }
    found: dict[str, Any] = json.loads(json.dumps({k: asdict(v) for k, v in results.items()}))
    # 119 images do not divide by 2.
    return found | {"rows": extract(lambda x: x.mean((2, 3)), test).tolist()}


def trained_apart(images: torch.Tensor) -> NACEncoder:
    """Return an encoder whose BatchNorm has seen other images on each process."""
    encoder = NACEncoder(code_dim=16).train()
    rank = int(os.environ.get("RANK", "0"))
    encoder(to_float(images[200 * rank : 200 * rank + 200]))
    return encoder


@pytest.mark.distributed
def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    two_processes(tmp_path, PROGRAM, tmp_path / "found")
    first, second = (json.loads((tmp_path / f"found{rank}").read_text()) for rank in (0, 1))
    assert first == second
    one = measured()
    assert first["rows"] == one["rows"]
    for name in ("linear", "linear_sgd", "knn", "retrieval", "health", "regions"):
        assert one[name]["protocol"] == first[name]["protocol"], name
    assert first["linear"]["top_1"] == pytest.approx(one["linear"]["top_1"], abs=1e-2)
    assert first["linear_sgd"]["train_loss"] == pytest.approx(one["linear_sgd"]["train_loss"])
    assert first["knn"]["top_1"] == pytest.approx(one["knn"]["top_1"], abs=1e-2)
    for figure in ("mean_average_precision", "chance"):
        assert first["retrieval"][figure] == pytest.approx(one["retrieval"][figure], abs=1e-3)
    assert first["health"]["information"] == pytest.approx(one["health"]["information"])
    assert first["regions"]["between"] == pytest.approx(one["regions"]["between"])
    # The encoder of the first process is measured everywhere.
    assert first["encoder"]["linear_probe"] == pytest.approx(
        one["encoder"]["linear_probe"], abs=1e-2
    )
    flips = [found["encoder"]["health"]["view_flip_rate"] for found in (first, one)]
    assert flips[0] == pytest.approx(flips[1])
    assert one["linear"]["top_1"] > 0.6
    assert one["retrieval"]["mean_average_precision"] > 1.5 * one["retrieval"]["chance"]
