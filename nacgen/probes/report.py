"""What an encoder is worth on labelled images: its linear probe and its code's information."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nacgen.data.augment import ViewPolicy, random_view, to_float
from nacgen.data.datasets import ImageDataset
from nacgen.data.stream import Batch
from nacgen.models.encoder import NACEncoder
from nacgen.probes.information import CodeInformation, code_information
from nacgen.probes.linear import linear_probe

MAX_IMAGES = 10_000  # of each split
MAX_CODES = 512  # images whose codes are told apart, two views each
CHUNK = 500


@dataclass(frozen=True)
class ProbeReport:
    """The figures of one encoder.

    Args:
        linear_probe: Test accuracy of a linear classifier on its features, None without labels.
        information: The bound in nats and its ceilings.
    """

    linear_probe: float | None
    information: CodeInformation

    def __str__(self) -> str:
        """One line for a terminal."""
        code = self.information
        probe = "no labels" if self.linear_probe is None else f"{self.linear_probe:.3f}"
        return (
            f"linear probe {probe}, NAC bound {code.nac_bound:.2f} nats (ceilings: "
            f"{code.batch_ceiling:.2f} by the number of codes, {code.channel_ceiling:.2f} by the channel), "
            f"{code.bit_agreement:.1%} of bits equal in two views"
        )


class EncoderProbe:
    """Measures encoders on the same images and views, so that their figures can be compared.

    Args:
        train: Images to fit classifiers on.
        test: Images to measure on.
        views: How the two views are drawn for the bound.
        device: Where to compute.
    """

    def __init__(
        self,
        train: ImageDataset,
        test: ImageDataset,
        views: ViewPolicy,
        device: torch.device | str = "cpu",
    ) -> None:
        self.train, self.test = (_thin(split, MAX_IMAGES) for split in (train, test))
        self.views, self.device = views, device

    def __call__(self, encoder: NACEncoder) -> ProbeReport:
        """Measure an encoder; it is used in evaluation mode and left in the mode it came in.

        Args:
            encoder: On the probe's device.

        Returns:
            Its figures.
        """
        was_training = encoder.training
        encoder.eval()
        try:
            with torch.no_grad():
                return self._measure(encoder)
        finally:
            encoder.train(was_training)

    def _measure(self, encoder: NACEncoder) -> ProbeReport:
        accuracy = None
        if self.train.labels is not None and self.test.labels is not None:
            accuracy = linear_probe(
                self._features(encoder, self.train),
                self.train.labels.to(self.device),
                self._features(encoder, self.test),
                self.test.labels.to(self.device),
            )
        fitting, held_out = (self._logits(encoder, s) for s in (self.train, self.test))
        return ProbeReport(accuracy, code_information(fitting, held_out, encoder.flip_probability))

    def _features(self, encoder: NACEncoder, dataset: ImageDataset) -> Tensor:
        chunks = dataset.images.split(CHUNK)
        return torch.cat([encoder.features(to_float(chunk.to(self.device))) for chunk in chunks])

    def _logits(self, encoder: NACEncoder, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
        """Code logits of two views, and posterior logits from the other view, (2n, k) each."""
        images = _thin(dataset, MAX_CODES).images.to(self.device)
        batch = Batch(images, None, 0, 0, len(images), 0)
        code_1, posterior_1 = encoder(random_view(batch, self.views, "probe_view_1"))
        code_2, posterior_2 = encoder(random_view(batch, self.views, "probe_view_2"))
        return torch.cat([code_1, code_2]).cpu(), torch.cat([posterior_2, posterior_1]).cpu()


def _thin(dataset: ImageDataset, limit: int) -> ImageDataset:
    """At most `limit` images, evenly spread over the dataset's order."""
    if len(dataset) <= limit:
        return dataset
    return dataset.subset(torch.linspace(0, len(dataset) - 1, limit).long())
