"""The update of DistillHash, which learns codes from pairs that pretrained features tell apart.

Source: Yang et al. 2019, arXiv:1905.03465 (CVPR).
"""

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.datasets import Dataset
from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import DataError
from nacgen.functional.distillhash import (
    cosine_distances,
    distilled_pair_labels,
    feature_neighbors,
    noisy_pair_labels,
    noisy_pair_loss,
    pair_likelihood_loss,
    pair_posterior,
    quantization_loss,
)
from nacgen.models.encoder import NACEncoder
from nacgen.pretraining.base import EncoderUpdate
from nacgen.probes.features import broadcast_buffers, extract
from nacgen.system.processes import gather_rows

NUM_IMAGES = 5_000  # training images whose pairs are labelled, spread over the dataset
NUM_NEIGHBORS = 20  # nearest neighbors of an image, which bound the noise rates
NOISY_PART = 0.5  # part of the training before the pairs are distilled
QUANTIZATION_WEIGHT = 0.1  # of the distance between relaxed and hard codes


class PairLabels(nn.Module):
    """Labels of every pair of training images by their features `(n, d)`, saved with the run."""

    labels: Tensor
    neighbors: Tensor

    def __init__(self, features: Tensor, num_neighbors: int) -> None:
        super().__init__()
        try:
            distances = cosine_distances(features)
            self.register_buffer("labels", noisy_pair_labels(distances))
            self.register_buffer("neighbors", feature_neighbors(distances, num_neighbors))
        except ValueError as error:
            raise DataError(f"the encoder's features label no pairs: {error}") from error

    def distill(self, outputs: Tensor) -> None:
        """Keep the pairs whose label noise does not explain."""
        posterior = pair_posterior(outputs)
        self.labels.copy_(distilled_pair_labels(posterior, self.neighbors))


class DistillHashUpdate(EncoderUpdate):
    """Steps on noisy pair labels, then, from `distill_at` images on, on distilled ones.

    The features of the pretrained encoder label the pairs before it is trained further.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        stream: ImageStream,
        images: Dataset,
        distill_at: int,
    ) -> None:
        self.stream, self.images, self.distill_at = stream, images, distill_at
        features = extract(encoder.eval().features, images, accelerator.device)
        num_neighbors = min(NUM_NEIGHBORS, len(images) - 1)
        self.pairs = PairLabels(features, num_neighbors).to(accelerator.device)
        super().__init__(accelerator, encoder, optimizer, views)
        self.modules["pairs"] = self.pairs

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step on the pairs of a batch."""
        if batch.images_seen - batch.global_size < self.distill_at <= batch.images_seen:
            self.distill()
        # Relaxed codes of the global batch, and the labels of its pairs.
        self.prepared.train()
        code_logits = self.prepared(random_view(batch, self.views, "view_1"), detach=True)[0]
        outputs = gather_rows(torch.tanh(code_logits.float()))
        rows = self.stream.indices(batch.images_seen).to(outputs.device)
        labels = self.pairs.labels[rows[:, None], rows]
        # One step on noisy or distilled pairs.
        is_distilled = batch.images_seen >= self.distill_at
        pair_loss = pair_likelihood_loss if is_distilled else noisy_pair_loss
        loss = pair_loss(outputs, labels).mean()
        loss = loss + QUANTIZATION_WEIGHT * quantization_loss(outputs).mean()
        norm = self.descend(loss, batch)
        labeled = (labels != 0).float().mean()
        return {"loss": loss.detach(), "labeled_pairs": labeled, "gradient_norm": norm}

    def distill(self) -> None:
        """Distill the pairs by the codes of all training images."""
        self.encoder.eval()
        broadcast_buffers(self.encoder)
        device = self.accelerator.device
        outputs = extract(
            lambda x: torch.tanh(self.encoder.code_logits(x).float()), self.images, device
        )
        self.pairs.distill(outputs.to(device))
