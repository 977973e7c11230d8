"""The update of a supervised classifier."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.stream import Batch
from nacgen.models.classifier import ImageClassifier
from nacgen.training.update import descend


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
