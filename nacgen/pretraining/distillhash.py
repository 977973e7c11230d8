"""The update of DistillHash: learn codes from pairs that pretrained features tell apart.

Source:
    Yang et al. 2019, arXiv:1905.03465 (CVPR).
"""

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.datasets import Dataset
from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import DataError
from nacgen.functional.distillhash import (
    cosine_distances,
    distilled_pair_labels,
    feature_neighbors,
    noise_rate_bounds,
    noisy_pair_labels,
    noisy_pair_loss,
    pair_likelihood_loss,
    pair_posterior,
    quantization_loss,
)
from nacgen.models.encoder import NACEncoder
from nacgen.probes.features import broadcast_buffers, extract
from nacgen.system.processes import gather_rows
from nacgen.training.update import descend


class PairLabels(nn.Module):
    """What is known of every pair of training images, saved with the run.

    Args:
        features: Of the training images, from the encoder that the run starts from, `(n, d)`.
        num_neighbors: Of each image, which bound the noise rates.

    Raises:
        DataError: The features tell no pairs apart.
    """

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

    def distil(self, outputs: Tensor) -> None:
        """Keep the pairs that noise cannot explain away.

        Args:
            outputs: Relaxed codes of all training images, `(n, k)`.
        """
        posterior = pair_posterior(outputs)
        bounds = noise_rate_bounds(posterior, self.neighbors)
        self.labels.copy_(distilled_pair_labels(posterior, bounds))


class DistillHashUpdate:
    """Train on noisy pair labels, then on distilled ones.

    Args:
        accelerator: Prepared for this run.
        encoder: Pretrained; its features label the pairs before it is trained.
        optimizer: Over its parameters.
        views: How a view of an image is drawn.
        stream: Of the training images.
        images: The training images, some thousands: there is a label for each pair.
        distill_at: Images seen when the pairs are distilled.
        num_neighbors: Of each image, which bound the noise rates.
        quantization_weight: Of the distance between relaxed and hard codes.

    Raises:
        DataError: The features tell no pairs apart.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        encoder: NACEncoder,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
        stream: ImageStream,
        images: Dataset,
        *,
        distill_at: int,
        num_neighbors: int,
        quantization_weight: float,
    ) -> None:
        self.accelerator, self.encoder = accelerator, encoder
        self.views, self.stream, self.images = views, stream, images
        self.distill_at, self.quantization_weight = distill_at, quantization_weight
        encoder.eval()
        features = extract(encoder.features, images, accelerator.device)
        self.pairs = PairLabels(features, num_neighbors).to(accelerator.device)
        self.prepared, prepared_optimizer = accelerator.prepare(encoder, optimizer)
        self.modules: dict[str, nn.Module] = {"encoder": encoder, "pairs": self.pairs}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"encoder": prepared_optimizer}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step on the pairs of a batch.

        Args:
            batch: Images.

        Returns:
            Loss, share of the pairs with a label, gradient norm.
        """
        if batch.images_seen - batch.global_size < self.distill_at <= batch.images_seen:
            self.encoder.eval()
            broadcast_buffers(self.encoder)
            outputs = extract(
                lambda x: torch.tanh(self.encoder.code_logits(x).float()),
                self.images,
                self.accelerator.device,
            )
            self.pairs.distil(outputs.to(self.accelerator.device))
        self.prepared.train()
        code_logits = self.prepared(random_view(batch, self.views, "view_1"), detach=True)[0]
        outputs = gather_rows(torch.tanh(code_logits.float()))  # of the global batch
        rows = self.stream.indices(batch.images_seen).to(outputs.device)
        labels = self.pairs.labels[rows[:, None], rows]
        is_distilled = batch.images_seen >= self.distill_at
        pair_loss = pair_likelihood_loss if is_distilled else noisy_pair_loss
        loss = pair_loss(outputs, labels).mean()
        loss = loss + self.quantization_weight * quantization_loss(outputs).mean()
        optimizer = self.optimizers["encoder"]
        norm = descend(self.accelerator, loss, optimizer, self.encoder.parameters(), batch)
        labeled = (labels != 0).float().mean()
        return {"loss": loss.detach(), "labeled_pairs": labeled, "gradient_norm": norm}
