"""What probes ask of labelled images, and the accuracy that they report."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nacgen.errors import DataError


def check_features(name: str, features: Float[Tensor, "n d"]) -> None:
    """Raise unless features are finite numbers of at least one image.

    Args:
        name: What the error calls them.
        features: To be checked.

    Raises:
        ValueError: There are none, or one of them is not finite.
    """
    if len(features) == 0:
        raise ValueError(f"{name} must be those of one image or more, got none. Check the split.")
    if not features.isfinite().all():
        raise ValueError(
            f"{name} must be finite, but {int((~features.isfinite()).sum())} values are not. "
            "Was the encoder trained to the end?"
        )


def check_labels(
    train_labels: Shaped[Tensor, "..."] | None, test_labels: Shaped[Tensor, "..."] | None
) -> tuple[Tensor, Tensor, int]:
    """The labels of both splits, if each image has one class and no class is unknown to training.

    Args:
        train_labels: Of the training images, as a dataset holds them.
        test_labels: Of the test images.

    Returns:
        Training labels, test labels, and the number of classes: one more than the largest label.

    Raises:
        DataError: Labels are missing, several an image, negative, or of a class without training images.
    """
    checked = []
    for name, labels in (("train_labels", train_labels), ("test_labels", test_labels)):
        if labels is None:
            raise DataError(
                f"{name} must give each image's class, got None. Probe a dataset with labels; for a folder "
                "put the images of each class into a subfolder of its own."
            )
        if labels.ndim != 1:
            raise DataError(
                f"{name} must give one class an image, (n,), got multi-hot labels {tuple(labels.shape)}. "
                "Measure encoders on such images by retrieval."
            )
        if len(labels) == 0 or labels.is_floating_point() or labels.dtype == torch.bool:
            raise DataError(
                f"{name} must be whole numbers, one or more, got {len(labels)} of {labels.dtype}."
            )
        if labels.min() < 0:
            raise DataError(f"{name} must be classes from 0, got {int(labels.min())}.")
        checked.append(labels.long())
    train, test = checked
    unknown = sorted(set(test.unique().tolist()) - set(train.unique().tolist()))
    if unknown:
        raise DataError(
            f"every class of the test images must have training images, but classes {unknown[:10]} have "
            "none. Probe splits of one dataset."
        )
    return train, test, int(train.max()) + 1


def check_lengths(name: str, features: Tensor, labels: Tensor) -> None:
    """Raise unless there is a label for each row of features.

    Args:
        name: Of the split, for the error.
        features: `(n, d)`.
        labels: `(n,)`.

    Raises:
        ValueError: Their numbers differ.
    """
    if len(features) != len(labels):
        raise ValueError(
            f"{name} must have a label for each image, got {len(features)} features and {len(labels)} "
            "labels. Take both from one split."
        )


def top_accuracies(
    scores: Float[Tensor, "n classes"], labels: Shaped[Tensor, " n"]
) -> tuple[float, float | None]:
    """Shares of images whose class has the highest score, and one of the five highest.

    Args:
        scores: Of each class; among equal ones the lowest class is taken first.
        labels: Classes from 0.

    Returns:
        Top-1 and top-5 accuracy, 0 to 1; the latter is None with five classes or fewer, where it says
        nothing.
    """
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :5]
    hits = best == labels.to(best.device)[:, None]
    top_1 = float(hits[:, 0].double().mean())
    return top_1, float(hits.any(1).double().mean()) if scores.shape[1] > 5 else None
