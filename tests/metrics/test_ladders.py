"""What a score is for: the worse the images, the worse the score, in the features of every extractor."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nacgen.data.datasets import load_dataset
from nacgen.functional.frechet import frechet_distance_from_features
from nacgen.functional.neighbours import precision_recall_density_coverage
from nacgen.metrics.extractors import FeatureExtractor, build_extractor
from nacgen.metrics.inception import InceptionExtractor, build_inception
from tests.metrics.seeded import dinov2_state, inception_state

slow = pytest.mark.slow
EXTRACTORS = [
    "digits_classifier",
    "nac_encoder",
    pytest.param("dinov2", marks=slow),
    pytest.param("pytorch_fid", marks=slow),
    pytest.param("tf1", marks=slow),
    pytest.param("clean", marks=slow),
]
TRAINED = ("digits_classifier", "nac_encoder")
MODES = (10, 7, 4, 1)  # classes that are left


def build(name: str, folder: Path) -> tuple[FeatureExtractor, int]:
    """An extractor, and how many images it can be asked for."""
    if name == "digits_classifier":
        return build_extractor(name), 355
    if name == "nac_encoder":
        return build_extractor(name, weights="checkpoints/digits-nac"), 355
    if name == "dinov2":
        torch.save(dinov2_state(), folder / "dinov2.pth")
        return build_extractor(name, weights=folder / "dinov2.pth"), 100
    network = build_inception()
    network.load_state_dict(inception_state())
    return InceptionExtractor(network, is_published=False, resize=name), 40


def blurred(images: Tensor, level: int) -> Tensor:
    for _ in range(level):
        padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
        images = F.avg_pool2d(padded, 3, stride=1).round().to(torch.uint8)
    return images


def noisy(images: Tensor, level: int) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 30 * level * noise).round().clamp(0, 255).to(torch.uint8)


def occluded(images: Tensor, level: int) -> Tensor:
    images = images.clone()
    images[:, :, 5 : 5 + 3 * level, 2 : 2 + 4 * level] = 128
    return images


def distances(extractor: FeatureExtractor, real: Tensor, ladder: list[Tensor]) -> list[float]:
    reference = extractor(real).pooled
    return [
        float(frechet_distance_from_features(reference, extractor(images).pooled).value)
        for images in ladder
    ]


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("spoil", [blurred, noisy, occluded])
def test_worse_images_score_worse(
    name: str, spoil: Callable[[Tensor, int], Tensor], tmp_path: Path
) -> None:
    extractor, n = build(name, tmp_path)
    real = load_dataset("digits", "train").read(torch.arange(n))
    held_out = load_dataset("digits", "test").read(torch.arange(n))
    found = distances(extractor, real, [spoil(held_out, level) for level in range(4)])
    assert found == sorted(found)
    assert found[3] > 1.5 * found[0]


@pytest.mark.parametrize("name", EXTRACTORS)
def test_dropped_classes_cost_recall_and_coverage_but_no_precision(
    name: str, tmp_path: Path
) -> None:
    extractor, n = build(name, tmp_path)
    digits, total = load_dataset("digits", "train"), 4 * n
    assert digits.labels is not None
    labels = digits.labels[:total]
    features = extractor(digits.read(torch.arange(len(labels)))).pooled
    reference = extractor(load_dataset("digits", "test").read(torch.arange(n))).pooled
    size = int(labels.bincount().min())  # every class alone has as many
    means = []
    for num_classes in MODES:
        found = []
        for first in range(10):  # whichever classes are left
            left = (labels - first) % 10 < num_classes
            spread = left.nonzero().squeeze(1)
            chosen = features[spread[torch.arange(size) * len(spread) // size]]
            shares = precision_recall_density_coverage(reference, chosen, k=5)
            distance = frechet_distance_from_features(reference, chosen).value
            found.append(torch.stack([distance, *shares]))
        means.append(torch.stack(found).mean(dim=0).tolist())
    distance, precision, recall, _, coverage = map(list, zip(*means, strict=True))
    assert distance == sorted(distance)
    for falling in (recall, coverage):
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] < 0.7 * falling[0]
    assert precision == pytest.approx([precision[0]] * len(MODES), abs=0.05)
