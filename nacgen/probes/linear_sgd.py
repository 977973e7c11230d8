"""Linear probe by the protocol of papers: a linear classifier trained by SGD on augmented images.

Source:
    Park et al. 2021, arXiv:2112.04014; after Chen et al. 2020, arXiv:2002.05709, appendix B.6.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.data.augment import random_boxes, resized_crop
from nacgen.data.datasets import Dataset
from nacgen.data.stream import Batch, ImageStream
from nacgen.probes.features import extract, require_eval
from nacgen.probes.labeled import Accuracies, check_finite, check_labels, top_accuracies
from nacgen.system.randomness import seeded

LEARNING_RATE, MOMENTUM = 1.0, 0.9
SMALLEST_CROP, CROP_RATIO = (
    0.08,
    4 / 3,
)  # of an image's area that a crop keeps; largest aspect ratio


@dataclass(frozen=True, kw_only=True)
class LinearSGDResult(Accuracies):
    """Accuracies on whole images, and the mean cross-entropy in nats on the crops of the last epoch."""

    train_loss: float


def linear_probe_sgd(
    function: Callable[[Tensor], Tensor],
    train: Dataset,
    test: Dataset,
    *,
    epochs: int = 100,
    batch_size: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LinearSGDResult:
    """Train a linear classifier on the features of random crops, and measure it on whole images.

    SGD with Nesterov momentum, without weight decay. The learning rate falls along half a cosine from the
    first step to the last. The features are computed anew for each crop, so this takes as long as `epochs`
    passes through the encoder. With several processes each trains the same classifier.

    Differs from the paper: the authors' schedule assumes 50,000 images; this one follows the dataset.

    The function receives no gradient. Its features are not standardized: large ones need a lower rate.
    """
    require_eval(function)
    _, test_labels, num_classes = check_labels(train.labels, test.labels)
    stream = ImageStream(train, batch_size, seed, device)
    num_steps = math.ceil(epochs * len(train) / batch_size)
    first = _features(function, stream.batch(0))
    with seeded(seed, "linear_probe"):
        classifier = nn.Linear(first.shape[1], num_classes).to(device)
    optimizer = torch.optim.SGD(
        classifier.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True
    )
    # Training on crops.
    losses = []
    for step in range(num_steps):
        factor = 0.5 * (1 + math.cos(math.pi * step / num_steps))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * factor
        batch = stream.batch(step * batch_size)
        features = _features(function, batch)
        assert batch.labels is not None
        with torch.enable_grad():
            loss = F.cross_entropy(classifier(features), batch.labels)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    last_epoch = losses[-math.ceil(len(train) / batch_size) :]
    train_loss = float(torch.stack(last_epoch).mean())
    if not math.isfinite(train_loss):
        raise ValueError(
            f"the classifier must stay finite, but its loss is {train_loss} at learning rate "
            f"{LEARNING_RATE}. Check that the features are finite, or leave linear_sgd out of the evaluators."
        )
    # Accuracy on whole images.
    test_features = extract(function, test, device).float()
    check_finite("test features", test_features)
    with torch.no_grad():
        scores = classifier(test_features.to(device)).cpu()
    top_1, top_5 = top_accuracies(scores, test_labels)
    protocol = {
        "classifier": "linear, SGD with Nesterov momentum, cosine, no weight decay",
        "augmentation": "crop and flip",
        "smallest_crop": SMALLEST_CROP,
        "epochs": epochs,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "learning_rate": LEARNING_RATE,
        "momentum": MOMENTUM,
        "seed": seed,
        "num_train": len(train),
        "num_test": len(test),
        "num_classes": num_classes,
    }
    return LinearSGDResult(top_1=top_1, top_5=top_5, train_loss=train_loss, protocol=protocol)


def _features(function: Callable[[Tensor], Tensor], batch: Batch) -> Float[Tensor, "b d"]:
    """Compute the features of one random crop of each image, half of them mirrored."""
    draw, n = batch.generator("linear_probe_view"), batch.global_size
    height, width = batch.images.shape[-2:]
    boxes = random_boxes(n, height, width, (SMALLEST_CROP, 1.0), CROP_RATIO, draw)
    flips = torch.rand(n, generator=draw) < 0.5
    crops = resized_crop(batch.images.float() / 255, batch.local(boxes), batch.local(flips))
    with torch.no_grad():
        return function(crops * 2 - 1).float()
