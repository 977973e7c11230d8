"""Everything that is measured of one encoder: classification, retrieval, code health, linear regions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.functional.hashing import is_relevant
from nacgen.models.backbone import calibrate_batch_norm
from nacgen.models.encoder import NACEncoder
from nacgen.probes.features import extract
from nacgen.probes.knn import knn_probe
from nacgen.probes.linear import fit_linear
from nacgen.probes.linear_sgd import linear_probe_sgd
from nacgen.probes.regions.regions import measure_regions
from nacgen.probes.regions.slices import RegionSlice, slice_regions
from nacgen.probes.report import EncoderProbe, thin
from nacgen.probes.retrieval.baselines import baseline_codes
from nacgen.probes.retrieval.evaluate import evaluate_retrieval, nearest_neighbors
from nacgen.probes.retrieval.protocols import open_protocol
from nacgen.probes.retrieval.sheet import write_retrieval_sheet
from nacgen.system.randomness import seeded

Evaluator = Literal["linear", "linear_sgd", "knn", "retrieval", "health", "regions"]
LABEL_FRACTIONS = (1.0, 0.1, 0.01)
NEIGHBORS = (20, 200)
REGION_IMAGES = 1_000
SHEET_QUERIES, SHEET_NEIGHBORS, SHEET_ZOOM = 10, 10, 2
SLICE_RESOLUTION = 112  # pixels of a side; the network is run for each, twice
SLICE_ZOOM = 250.0  # around whole images a whole network has more regions than can be seen


class EncoderSuite:
    """Measures encoders on the same images, so that their figures can be compared.

    Args:
        train: Training images, with labels.
        test: Held-out images, with labels.
        views: How two views of an image are drawn, for code health and regions.
        evaluators: What is measured.
        protocol: Of retrieval, see `nacgen.probes.retrieval.protocols`.
        num_segments: Of each kind, for the regions.
        region_method: `"exact"`, or `"sampled"` for large networks.
        seed: Of everything drawn.
        device: Where to compute.
    """

    def __init__(
        self,
        train: Dataset,
        test: Dataset,
        views: ViewPolicy,
        evaluators: Sequence[Evaluator] = ("linear", "knn", "retrieval", "health", "regions"),
        *,
        protocol: str = "split",
        num_segments: int = 16,
        region_method: Literal["exact", "sampled"] = "exact",
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.train, self.test, self.views = train, test, views
        self.evaluators, self.seed, self.device = tuple(evaluators), seed, device
        self.num_segments, self.region_method = num_segments, region_method
        self.pool = self.protocol = None
        if "retrieval" in self.evaluators:
            self.pool, self.protocol = open_protocol(protocol, train, test, seed)

    def __call__(self, encoder: NACEncoder) -> dict[str, Any]:
        """Measure an encoder.

        Args:
            encoder: In evaluation mode, on the suite's device.

        Returns:
            The results by evaluator, as JSON values with their protocols.

        Raises:
            DataError: Labels are missing, or do not fit the protocol.
            ValueError: Features are not finite.
        """
        measured: dict[str, Any] = {}
        if {"linear", "knn"} & set(self.evaluators):
            features = [extract(encoder.features, s, self.device) for s in (self.train, self.test)]
            labeled = features[0], self.train.labels, features[1], self.test.labels
        if "linear" in self.evaluators:
            measured["linear"] = {
                f"{fraction:g}": asdict(fit_linear(*labeled, fraction, self.seed))
                for fraction in self._fractions()
            }
        if "linear_sgd" in self.evaluators:
            result = linear_probe_sgd(
                encoder.features,
                self.train,
                self.test,
                batch_size=min(1_000, len(self.train)),
                seed=self.seed,
                device=self.device,
            )
            measured["linear_sgd"] = asdict(result)
        if "knn" in self.evaluators:
            neighbors = [k for k in NEIGHBORS if k <= len(self.train)]
            measured["knn"] = {
                str(r.num_neighbors): asdict(r) for r in knn_probe(*labeled, neighbors)
            }
        if "retrieval" in self.evaluators:
            measured["retrieval"] = self._retrieval(encoder)
        if "health" in self.evaluators:
            probe = EncoderProbe(self.train, self.test, self.views, self.device)
            measured["health"] = asdict(probe.health(encoder))
        if "regions" in self.evaluators:
            images = thin(self.test, REGION_IMAGES)
            report = measure_regions(
                encoder.piecewise_linear_logits,
                images.read(torch.arange(len(images))),
                self.views,
                num_segments=self.num_segments,
                seed=self.seed,
                method=self.region_method,
                device=self.device,
            )
            measured["regions"] = asdict(report)
        return measured

    def draw(self, encoders: Mapping[str, NACEncoder], folder: Path) -> dict[str, Path]:
        """Write a nearest-neighbour sheet of each encoder.

        Args:
            encoders: By name.
            folder: Existing, to write into.

        Returns:
            The pictures by caption; none unless retrieval is measured.
        """
        if self.pool is None or self.protocol is None:
            return {}
        assert self.pool.labels is not None
        query, gallery, labels = self.protocol.query, self.protocol.gallery, self.pool.labels
        shown = query[torch.linspace(0, len(query) - 1, SHEET_QUERIES).long()]
        pictures = {}
        for number, (name, encoder) in enumerate(encoders.items()):
            found = nearest_neighbors(
                extract(encoder.codes, self.pool.subset(shown), self.device),
                extract(encoder.codes, self.pool.subset(gallery), self.device),
                min(SHEET_NEIGHBORS, len(gallery)),
            )
            items = gallery[found.indices]
            is_hit = is_relevant(labels[shown], labels[gallery]).gather(1, found.indices)
            images = [self.pool.read(row) for row in items]
            path = folder / f"neighbors_{number}.png"
            write_retrieval_sheet(
                self.pool.read(shown), torch.stack(images), is_hit, path, zoom=SHEET_ZOOM
            )
            pictures[f"Nearest neighbours by code: {name}"] = path
        return pictures

    @property
    def slice_images(self) -> UInt8[Tensor, "3 3 h w"]:
        """The held-out images whose plane is sliced: evenly spread over the dataset's order."""
        return self.test.read(torch.linspace(0, len(self.test) - 1, 3).long())

    def slices(self, encoder: NACEncoder) -> list[RegionSlice]:
        """Slice an encoder's regions by the plane through three images.

        Args:
            encoder: In evaluation mode, on the suite's device.

        Returns:
            The activation codes around the images, and the linear regions of a small window.
        """
        images = to_float(self.slice_images).to(self.device)
        return [
            slice_regions(encoder.piecewise_linear_logits, images, SLICE_RESOLUTION, "code"),
            slice_regions(
                encoder.piecewise_linear_logits, images, SLICE_RESOLUTION, "network", SLICE_ZOOM
            ),
        ]

    def _fractions(self) -> list[float]:
        """The label fractions that leave ten training images or more, and one of each class."""
        labels = self.train.labels
        if labels is None or labels.ndim != 1:
            return [1.0]  # the probe itself says what is wrong
        smallest = int(labels.bincount()[labels.unique()].min())
        return [f for f in LABEL_FRACTIONS if round(f * smallest) >= 1 and f * len(labels) >= 10]

    def _retrieval(self, encoder: NACEncoder) -> dict[str, Any]:
        """Of the learned code and of classical codes of the same features."""
        assert self.pool is not None
        assert self.protocol is not None
        assert self.pool.labels is not None
        features = extract(encoder.features, self.pool, self.device)
        fitted = features[self.protocol.train]
        codes: dict[str, Tensor] = {"code": extract(encoder.codes, self.pool, self.device)}
        for method in ("lsh", "pca", "itq"):
            if method == "lsh" or encoder.code_dim <= min(fitted.shape):
                codes[method] = baseline_codes(
                    fitted, features, encoder.code_dim, method, self.seed
                )
        query, gallery = self.protocol.query, self.protocol.gallery
        labels = self.pool.labels
        return {
            name: asdict(
                evaluate_retrieval(
                    code[query],
                    labels[query],
                    code[gallery],
                    labels[gallery],
                    protocol=self.protocol,
                    allow_queries_without_relevant=True,  # the protocol's record says how many
                )
            )
            for name, code in codes.items()
        }


def untrained_like(encoder: NACEncoder, images: Tensor, seed: int = 0) -> NACEncoder:
    """A fresh encoder of the same architecture, the lower reference for every figure.

    Its BatchNorm statistics are those of some images: with the initial ones, means of 0 and variances of 1,
    an untrained network would be another network than the one that training starts from.

    Args:
        encoder: Whose architecture is wanted.
        images: `(b, 3, h, w)` in [-1, 1], on the encoder's device.
        seed: Of the weights.

    Returns:
        The encoder, in evaluation mode.
    """
    with seeded(seed, "encoder"):
        fresh = NACEncoder(**encoder.options)
    fresh.to(images.device)
    calibrate_batch_norm(fresh, lambda: fresh(images))
    return fresh
