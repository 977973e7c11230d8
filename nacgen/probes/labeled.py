"""Checks of labeled features, and the accuracies that classification probes report."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from nacgen.errors import DataError

Labels = Shaped[Tensor, "..."] | None


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Accuracies of a classifier of frozen features, 0 to 1."""

    top_1: float  # fraction of the test images that are classified correctly
    # Fraction whose class is among the five best; None with five classes or fewer.
    top_5: float | None
    protocol: dict[str, Any]  # all settings that change the figures


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ValueError unless all values are finite."""
    if not values.isfinite().all():
        raise ValueError(
            f"{name} must be finite, but {int((~values.isfinite()).sum())} of {values.numel()} values are "
            "not. Check the images, and that the encoder's training did not diverge."
        )


def check_labels(train_labels: Labels, test_labels: Labels) -> tuple[Tensor, Tensor, int]:
    """Return training labels, test labels and the number of classes, one more than the largest label."""
    checked: list[Tensor] = []
    for name, labels in (("train_labels", train_labels), ("test_labels", test_labels)):
        if labels is None:
            raise DataError(
                f"{name} must give each image's class, got None. Probe a dataset with labels; for a folder "
                "put the images of each class into a subfolder of its own."
            )
        if labels.ndim != 1:
            raise DataError(
                f"{name} must give one class for each image, (n,), got multi-hot labels "
                f"{tuple(labels.shape)}. Measure encoders on such images by retrieval."
            )
        checked.append(labels)
    train, test = checked
    unknown = sorted(set(test.unique().tolist()) - set(train.unique().tolist()))
    if unknown:
        raise DataError(
            f"every class of the test images must have training images, but classes {unknown[:10]} have "
            "none. Probe splits of one dataset."
        )
    return train, test, int(train.max()) + 1


def check_labeled(
    train_features: Tensor, train_labels: Labels, test_features: Tensor, test_labels: Labels
) -> tuple[Tensor, Tensor, int]:
    """Return labels as `check_labels`, after checking that the features are finite."""
    check_finite("train_features", train_features)
    check_finite("test_features", test_features)
    return check_labels(train_labels, test_labels)


def top_accuracies(
    scores: Float[Tensor, "n classes"], labels: Shaped[Tensor, " n"]
) -> tuple[float, float | None]:
    """Compute the top-1 and top-5 accuracy from scores of all classes; equal scores favor the lowest class.

    Top-5 is None with five classes or fewer, where it says nothing.
    """
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :5]
    hits = best == labels[:, None]
    top_1 = float(hits[:, 0].double().mean())
    return top_1, float(hits.any(1).double().mean()) if scores.shape[1] > 5 else None
