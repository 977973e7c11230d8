"""All measurements of one encoder: classification, retrieval, code health and linear regions."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torch.optim.swa_utils import update_bn

from nacgen.data.augment import ViewPolicy
from nacgen.data.datasets import Dataset
from nacgen.data.pixels import to_float
from nacgen.errors import DataError
from nacgen.functional.hamming import nearest_codes
from nacgen.functional.hashing import is_relevant
from nacgen.models.encoder import NACEncoder
from nacgen.probes.features import extract
from nacgen.probes.knn import knn_probe
from nacgen.probes.labeled import Labels
from nacgen.probes.linear import fit_linear
from nacgen.probes.linear_sgd import linear_probe_sgd
from nacgen.probes.options import ProbeConfig, name_and_path
from nacgen.probes.regions.regions import measure_regions
from nacgen.probes.regions.slices import RegionSlice, slice_regions
from nacgen.probes.report import EncoderProbe, thin
from nacgen.probes.retrieval.baselines import baseline_codes
from nacgen.probes.retrieval.evaluate import evaluate_retrieval
from nacgen.probes.retrieval.protocols import open_protocol
from nacgen.system.randomness import seeded

LABEL_FRACTIONS = (1.0, 0.1, 0.01)
NEIGHBORS = (20, 200)
REGION_IMAGES = 1_000
CALIBRATION_IMAGES = 500  # about so many, for BatchNorm of untrained encoders
NUM_QUERIES, NUM_RETRIEVED = 10, 10  # of a picture of retrieval
SLICE_RESOLUTION = 112  # pixels of a side; the network is run for each, twice
SLICE_ZOOM = 250.0  # around whole images a whole network has more regions than can be seen


@dataclass(frozen=True)
class RetrievedImages:
    """Some queries and the gallery images nearest to them by code."""

    queries: UInt8[Tensor, "q 3 h w"]
    neighbors: UInt8[Tensor, "q m 3 h w"]  # nearest first
    # True for those that are relevant to their query; None without labels.
    is_relevant: Bool[Tensor, "q m"] | None


@dataclass(frozen=True)
class Examples:
    """Examples of an encoder's measurements, for pictures; empty for what is not measured."""

    retrieved: RetrievedImages | None
    slice_images: UInt8[Tensor, "3 3 h w"]  # held-out images that span a plane
    slices: list[RegionSlice]  # codes on that plane, and linear regions in a small window of it


class EncoderSuite:
    """Measurements on fixed images, so that the figures of several encoders can be compared.

    The views are for code health and regions. `say` is called as `print` with each evaluator's name and its time.
    """

    def __init__(
        self,
        train: Dataset,
        test: Dataset,
        views: ViewPolicy,
        config: ProbeConfig,
        device: torch.device | str = "cpu",
        say: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        self.train, self.test, self.views = train, test, views
        self.config, self.evaluators, self.device, self.say = config, config.evaluators, device, say
        if "retrieval" in self.evaluators:
            self.pool, self.protocol = open_protocol(config.protocol, train, test, config.seed)

    def __call__(self, encoder: NACEncoder) -> dict[str, Any]:
        """Measure an encoder in evaluation mode: results by evaluator, as JSON values with their protocols.

        `seconds` holds the time of each evaluator, and of the features that classifiers share.
        """
        measured: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        features: list[Tensor] = []

        def extract_features(encoder: NACEncoder) -> None:
            splits = (self.train, self.test)
            features.extend(extract(encoder.features, split, self.device) for split in splits)

        def labeled() -> tuple[Tensor, Labels, Tensor, Labels]:
            return features[0], self.train.labels, features[1], self.test.labels

        steps: dict[str, Callable[[NACEncoder], Any]] = {
            "linear": lambda _: {
                f"{fraction:g}": asdict(fit_linear(*labeled(), fraction, self.config.seed))
                for fraction in self._fractions()
            },
            "linear_sgd": lambda encoder: asdict(
                linear_probe_sgd(
                    encoder.features,
                    self.train,
                    self.test,
                    batch_size=min(1_000, len(self.train)),
                    seed=self.config.seed,
                    device=self.device,
                )
            ),
            "knn": lambda _: {
                str(r.num_neighbors): asdict(r) for r in knn_probe(*labeled(), self._neighbors())
            },
            "retrieval": self._retrieval,
            "health": lambda encoder: asdict(
                EncoderProbe(self.train, self.test, self.views, self.device).health(encoder)
            ),
            "regions": self._regions,
        }
        steps = {name: step for name, step in steps.items() if name in self.evaluators}
        if {"linear", "knn"} & set(steps):
            steps = {"features": extract_features, **steps}
        for name, step in steps.items():
            self.say(f"  {name:10}", end="", flush=True)
            start = time.perf_counter()
            measured[name] = step(encoder)
            seconds[name] = time.perf_counter() - start
            self.say(f" {seconds[name]:6.1f} s")
        measured.pop("features", None)
        return measured | {"seconds": seconds}

    def _neighbors(self) -> list[int]:
        neighbors = [k for k in NEIGHBORS if k <= len(self.train)]
        if not neighbors:
            raise DataError(
                f"knn needs {min(NEIGHBORS)} training images or more, got {len(self.train)}. Leave it out of "
                "the evaluators, or give more images."
            )
        return neighbors

    def _regions(self, encoder: NACEncoder) -> dict[str, Any]:
        images = thin(self.test, REGION_IMAGES)
        report = measure_regions(
            encoder.piecewise_linear_logits,
            images.read(torch.arange(len(images))),
            self.views,
            num_segments=self.config.num_segments,
            seed=self.config.seed,
            method=self.config.region_method,
            device=self.device,
        )
        return asdict(report)

    def examples(self, encoder: NACEncoder) -> Examples:
        """Collect examples of an encoder in evaluation mode; with several processes all must call it."""
        plane = self.test.read(torch.linspace(0, len(self.test) - 1, 3).long())
        retrieved = None
        if "retrieval" in self.evaluators:
            query, gallery = self.protocol.query, self.pool.subset(self.protocol.gallery)
            shown = query[torch.linspace(0, len(query) - 1, NUM_QUERIES).long()]
            retrieved = nearest_images(encoder, self.pool.subset(shown), gallery, self.device)
        if "regions" not in self.evaluators:
            return Examples(retrieved, plane, [])
        network, images = encoder.piecewise_linear_logits, to_float(plane).to(self.device)
        slices = [
            slice_regions(network, images, SLICE_RESOLUTION, "code"),
            slice_regions(network, images, SLICE_RESOLUTION, "network", SLICE_ZOOM),
        ]
        return Examples(retrieved, plane, slices)

    def _fractions(self) -> list[float]:
        """Return the label fractions that leave ten training images or more, and one of each class."""
        labels = self.train.labels
        if labels is None or labels.ndim != 1:
            return [1.0]  # the probe itself says what is wrong
        smallest = int(labels.bincount()[labels.unique()].min())
        return [f for f in LABEL_FRACTIONS if round(f * smallest) >= 1 and f * len(labels) >= 10]

    def _retrieval(self, encoder: NACEncoder) -> dict[str, Any]:
        """Evaluate the learned code, and classical codes of the same features."""
        assert self.pool.labels is not None  # open_protocol refuses others
        features = extract(encoder.features, self.pool, self.device)
        fitted = features[self.protocol.train]
        codes: dict[str, Tensor] = {"code": extract(encoder.codes, self.pool, self.device)}
        for method in ("lsh", "pca", "itq"):
            if method == "lsh" or encoder.code_dim <= min(fitted.shape):
                codes[method] = baseline_codes(
                    fitted, features, encoder.code_dim, method, self.config.seed
                )
        query, gallery, labels = self.protocol.query, self.protocol.gallery, self.pool.labels
        return {
            name: asdict(
                evaluate_retrieval(
                    code[query],
                    labels[query],
                    code[gallery],
                    labels[gallery],
                    protocol=self.protocol,
                )
            )
            for name, code in codes.items()
        }


def nearest_images(
    encoder: NACEncoder, queries: Dataset, gallery: Dataset, device: torch.device | str
) -> RetrievedImages:
    """Find the images of a gallery whose codes are nearest to those of queries; every process calls it."""
    code, others = (extract(encoder.codes, images, device) for images in (queries, gallery))
    found = nearest_codes(code, others, min(NUM_RETRIEVED, len(gallery)))
    is_hit = None
    if queries.labels is not None and gallery.labels is not None:
        is_hit = is_relevant(queries.labels, gallery.labels).gather(1, found.indices)
    neighbors = torch.stack([gallery.read(row) for row in found.indices])
    return RetrievedImages(queries.read(torch.arange(len(queries))), neighbors, is_hit)


def load_encoders(
    entries: Sequence[str], train: Dataset, device: torch.device | str = "cpu"
) -> list[tuple[str, str, NACEncoder]]:
    """Load encoders, and return the name, path and encoder of each entry.

    An entry is `"NAME=PATH_OR_ID"` or a path, see `name_and_path`. The path `untrained`
    stands for random weights in the architecture of the first trained encoder, with BatchNorm calibrated on
    the training images.
    """
    parts = [name_and_path(entry) for entry in entries]
    trained = {
        path: NACEncoder.from_pretrained(path).to(device)
        for _, path in parts
        if path != "untrained"
    }
    step = max(1, len(train) // CALIBRATION_IMAGES)
    images = to_float(train.read(torch.arange(0, len(train), step))).to(device)
    loaded: list[tuple[str, str, NACEncoder]] = []
    for name, path in parts:
        if path == "untrained":
            seed = sum(source == "untrained" for _, source, _ in loaded)
            encoder = untrained_like(next(iter(trained.values())), images, seed)
        else:
            encoder = trained[path]
        loaded.append((name, path, encoder))
    return loaded


def untrained_like(encoder: NACEncoder, images: Tensor, seed: int = 0) -> NACEncoder:
    """Build an untrained encoder of the same architecture, the lower reference for every figure.

    Its BatchNorm statistics are those of some images. With the initial ones, means of 0 and variances of 1,
    it would be another network than the one that training starts from.
    """
    with seeded(seed, "encoder"):
        fresh = NACEncoder(**encoder.options)
    fresh.to(images.device)
    update_bn([images], fresh)
    return fresh.eval()
