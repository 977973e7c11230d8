"""The update of a supervised encoder, the upper reference for those that see no labels."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.stream import Batch
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder
from nacgen.training.update import descend


class CodeClassifier(nn.Module):
    """A linear classifier on an encoder's relaxed code, so that labels train features and code alike.

    Args:
        encoder: To be trained.
        num_classes: Two or more.
    """

    def __init__(self, encoder: NACEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.code_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class logits, `(b, 3, h, w)` in [-1, 1] -> `(b, classes)`."""
        logits: Tensor = self.classifier(torch.tanh(self.encoder.code_logits(images)))
        return logits


class SupervisedUpdate:
    """Cross-entropy on one view; binary, per label, where images have several.

    Args:
        accelerator: Prepared for this run.
        classifier: Around the encoder to be trained.
        optimizer: Over the parameters of both.
        views: How a view of an image is drawn.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        classifier: CodeClassifier,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
    ) -> None:
        self.accelerator, self.classifier, self.views = accelerator, classifier, views
        self.trainable = list(classifier.parameters())
        self.prepared, prepared_optimizer = accelerator.prepare(classifier, optimizer)
        self.modules: dict[str, nn.Module] = {
            "encoder": classifier.encoder,
            "classifier": classifier.classifier,
        }
        self.optimizers: dict[str, AcceleratedOptimizer] = {"encoder": prepared_optimizer}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step.

        Args:
            batch: Images with labels.

        Returns:
            Loss in nats, gradient norm.
        """
        self.prepared.train()
        logits = self.prepared(random_view(batch, self.views, "view_1")).float()
        assert batch.labels is not None  # the recipe refuses a dataset without
        if batch.labels.ndim == 2:
            loss = F.binary_cross_entropy_with_logits(logits, batch.labels.float())
        else:
            loss = F.cross_entropy(logits, batch.labels)
        optimizer = self.optimizers["encoder"]
        norm = descend(self.accelerator, loss, optimizer, self.trainable, batch)
        return {"loss": loss.detach(), "gradient_norm": norm}


class ClassifierUpdate:
    """Cross-entropy on augmented images.

    Args:
        accelerator: Prepared for this run.
        classifier: To be trained.
        optimizer: Over its parameters.
        views: Augmentation.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        classifier: ImageClassifier,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
    ) -> None:
        self.accelerator, self.classifier, self.views = accelerator, classifier, views
        self.prepared, prepared_optimizer = accelerator.prepare(classifier, optimizer)
        self.modules = {"classifier": classifier}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"classifier": prepared_optimizer}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step.

        Args:
            batch: Images with labels.

        Returns:
            Loss in nats, accuracy, gradient norm.
        """
        self.prepared.train()
        logits = self.prepared(random_view(batch, self.views, "view")).float()
        assert batch.labels is not None  # the recipe refuses a dataset without
        loss = F.cross_entropy(logits, batch.labels)
        accuracy = (logits.argmax(1) == batch.labels).float().mean()
        norm = descend(
            self.accelerator,
            loss,
            self.optimizers["classifier"],
            self.classifier.parameters(),
            batch,
        )
        return {"loss": loss.detach(), "accuracy": accuracy, "gradient_norm": norm}
