"""The Inception Score of images that arrive in batches, on one process or several."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nacgen.errors import NonFiniteError
from nacgen.functional.inception_score import (
    InceptionScore,
    certainty_and_classes,
    score_of_splits,
    split_of,
)
from nacgen.system.processes import Processes


class ClassSums:
    """Sums of class probabilities that the Inception Score needs, for each split, in float64.

    Images are assigned to splits at random, always in the same way, because files are often sorted by class, and a
    split of a single class would score 1.

    Args:
        n: Number of images on all processes together, not below `num_splits`.
        num_splits: Number of splits of the score.
        processes: Processes that divide the images.
    """

    def __init__(self, n: int, num_splits: int, processes: Processes) -> None:
        self.n, self.num_splits, self.processes = n, num_splits, processes
        self.order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        self.certainty = torch.zeros(num_splits, dtype=torch.float64, device=processes.device)
        self.classes: Tensor | None = None

    def update(self, logits: Float[Tensor, "b k"], positions: Int64[Tensor, " b"]) -> None:
        """Add a batch of logits, given the position of each image among all images."""
        log_p = logits.detach().to(self.processes.device).double().log_softmax(dim=1)
        split = split_of(self.order[positions], self.n, self.num_splits).to(self.processes.device)
        certainty, classes = certainty_and_classes(log_p, split, self.num_splits)
        self.certainty += certainty
        self.classes = classes if self.classes is None else self.classes + classes

    def result(self) -> InceptionScore:
        """Return the score over all processes, the same on each; every process must call.

        Raises:
            NonFiniteError: If a logit was NaN or infinite, on any process.
        """
        num_classes = 0 if self.classes is None else self.classes.shape[1]
        widths = self.processes.gather(
            torch.tensor([num_classes], device=self.processes.device), self.processes.num_processes
        )
        if self.classes is None:  # fewer images than processes
            self.classes = self.certainty.new_zeros(self.num_splits, int(widths.max()))
        certainty, classes = self.processes.sum(self.certainty), self.processes.sum(self.classes)
        if not certainty.isfinite().all():
            raise NonFiniteError(
                f"logits must be finite, got NaN or infinity in {int((~certainty.isfinite()).sum())} of "
                f"{self.num_splits} splits of {self.n} images. Look at the images that were scored, and at "
                "the extractor's weights."
            )
        sizes = split_of(torch.arange(self.n), self.n, self.num_splits).bincount()
        return score_of_splits(certainty, classes, sizes.to(certainty.device))
