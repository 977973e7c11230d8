"""The updates of supervised training: of an encoder, the upper reference, and of a small classifier."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from nacgen.data.augment import ViewPolicy, random_view
from nacgen.data.stream import Batch
from nacgen.models.encoder import NACEncoder
from nacgen.training.update import descend


class CodeClassifier(nn.Module):
    """A linear classifier on an encoder's relaxed code, so that labels train features and code alike."""

    def __init__(self, encoder: NACEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.code_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute class logits, `(b, 3, h, w)` in [-1, 1] -> `(b, classes)`."""
        logits: Tensor = self.classifier(torch.tanh(self.encoder.code_logits(images)))
        return logits


class ClassifierUpdate:
    """Cross-entropy on one view of each image; binary, per label, where images have several."""

    purpose = "view"  # name of the views' random draws

    def __init__(
        self,
        accelerator: Accelerator,
        classifier: nn.Module,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
    ) -> None:
        self.accelerator, self.classifier, self.views = accelerator, classifier, views
        self.prepared, prepared_optimizer = accelerator.prepare(classifier, optimizer)
        self.modules: dict[str, nn.Module] = {"classifier": classifier}
        self.optimizers: dict[str, AcceleratedOptimizer] = {"classifier": prepared_optimizer}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step; the accuracy is logged where each image has one class."""
        self.prepared.train()
        logits = self.prepared(random_view(batch, self.views, self.purpose)).float()
        assert batch.labels is not None  # the recipe refuses a dataset without
        logs = {}
        if batch.labels.ndim == 2:
            loss = F.binary_cross_entropy_with_logits(logits, batch.labels.float())
        else:
            loss = F.cross_entropy(logits, batch.labels)
            logs["accuracy"] = (logits.argmax(1) == batch.labels).float().mean()
        (optimizer,) = self.optimizers.values()
        norm = descend(self.accelerator, loss, optimizer, self.classifier.parameters(), batch)
        return {"loss": loss.detach(), **logs, "gradient_norm": norm}


class SupervisedUpdate(ClassifierUpdate):
    """The same for an encoder, with the names and views of the other objectives."""

    purpose = "view_1"

    def __init__(
        self,
        accelerator: Accelerator,
        classifier: CodeClassifier,
        optimizer: torch.optim.Optimizer,
        views: ViewPolicy,
    ) -> None:
        super().__init__(accelerator, classifier, optimizer, views)
        self.modules = {"encoder": classifier.encoder, "classifier": classifier.classifier}
        self.optimizers = {"encoder": self.optimizers.pop("classifier")}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step and return the loss in nats and the gradient norm."""
        logs = super().update(batch)
        return {name: logs[name] for name in ("loss", "gradient_norm")}
