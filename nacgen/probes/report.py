"""Measurements of an encoder while it trains: linear probe and code health."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.datasets import Dataset
from nacgen.data.stream import Batch
from nacgen.models.encoder import NACEncoder
from nacgen.models.own_network import evaluating
from nacgen.probes.features import broadcast_buffers, extract
from nacgen.probes.health import CodeHealth, code_health
from nacgen.probes.linear import linear_probe

MAX_IMAGES = 10_000  # of each split
MAX_CODES = 512  # images whose codes are compared, two views each


@dataclass(frozen=True)
class ProbeReport:
    """Linear probe and code health of one encoder."""

    linear_probe: float | None  # test accuracy; None unless each image has one class
    health: CodeHealth

    def __str__(self) -> str:
        """Return a few lines for a terminal."""
        probe = "no labels" if self.linear_probe is None else f"{self.linear_probe:.3f}"
        return f"linear probe {probe}\n{self.health}"


class EncoderProbe:
    """A measurement on fixed images and views, so that its figures can be compared.

    Classifiers are fitted on `train`, encoders are measured on `test`.
    """

    def __init__(
        self, train: Dataset, test: Dataset, views: ViewPolicy, device: torch.device | str = "cpu"
    ) -> None:
        self.train, self.test = (thin(split, MAX_IMAGES) for split in (train, test))
        self.views, self.device = views, device

    def __call__(self, encoder: NACEncoder) -> ProbeReport:
        """Measure an encoder, in evaluation mode, and restore its mode.

        Several processes measure the encoder of the first one, see `broadcast_buffers`.
        """
        broadcast_buffers(encoder)
        with evaluating(encoder):
            accuracy = None
            labels = self.train.labels, self.test.labels
            test_features = extract(encoder.features, self.test, self.device)
            if labels[0] is not None and labels[1] is not None and labels[0].ndim == 1:
                train_features = extract(encoder.features, self.train, self.device)
                accuracy = linear_probe(train_features, labels[0], test_features, labels[1])
            return ProbeReport(accuracy, self.health(encoder, test_features))

    @torch.no_grad()
    def health(self, encoder: NACEncoder, features: Tensor | None = None) -> CodeHealth:
        """Compute the health of the code on two views of held-out images, whose features may be given."""
        if features is None:
            features = extract(encoder.features, self.test, self.device)
        few = thin(self.test, MAX_CODES)
        images = few.read(torch.arange(len(few))).to(self.device)
        batch = Batch(images, None, 0, 0, len(images), 0)
        forward = encoder.forward  # without the compiled training step
        code_1, posterior_1 = forward(random_view(batch, self.views, "probe_view_1"))
        code_2, posterior_2 = forward(random_view(batch, self.views, "probe_view_2"))
        return code_health(
            torch.cat([code_1, code_2]).float().cpu(),
            torch.cat([posterior_2, posterior_1]).float().cpu(),
            encoder.flip_probability,
            features=features,
        )


def thin(dataset: Dataset, limit: int) -> Dataset:
    """Return at most `limit` images, evenly spread over a dataset's order."""
    if len(dataset) <= limit:
        return dataset
    return dataset.subset(torch.linspace(0, len(dataset) - 1, limit).long())
