"""What a score is for: the worse the images, the worse the score, in the features of every extractor."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nacgen.data.datasets import load_dataset
from nacgen.functional.frechet import frechet_distance
from nacgen.functional.neighbors import precision_recall_density_coverage
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.extractors.build import build_extractor
from nacgen.metrics.extractors.inception import InceptionExtractor, build_inception
from tests.metrics.seeded import dinov2_state, inception_state

MODES = (10, 7, 4, 1)  # classes that are left


class Scale(NamedTuple):
    """An extractor, how many images it can be asked for, and features of real and of unseen real ones."""

    extractor: FeatureExtractor
    n: int
    real: Tensor
    held_out: Tensor


SMALL = ["digits_classifier", "nac_encoder", pytest.param("dinov2", marks=pytest.mark.slow)]
ALL = [*SMALL, pytest.param("inception", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def scale(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scale:
    name = request.param
    extractor: FeatureExtractor
    if name == "inception":
        network, n = build_inception(), 12
        network.load_state_dict(inception_state())
        extractor = InceptionExtractor(network, is_published=False)
    elif name == "dinov2":
        path, n = tmp_path_factory.mktemp("dinov2") / "dinov2.pth", 100
        torch.save(dinov2_state(), path)
        extractor = build_extractor(name, weights=path)
    else:
        weights, n = {"nac_encoder": "checkpoints/digits-nac"}.get(name), 355
        extractor = build_extractor(name, weights=weights)
    real, held_out = (
        extractor(load_dataset("digits", split).read(torch.arange(n))).pooled
        for split in ("train", "test")
    )
    return Scale(extractor, n, real, held_out)


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


def distance(x: Tensor, y: Tensor) -> float:
    moments = [(rows.double().mean(0), torch.cov(rows.double().mT)) for rows in (x, y)]
    return float(frechet_distance(*moments[0], *moments[1]).value)


@pytest.mark.parametrize("scale", ALL, indirect=True)
@pytest.mark.parametrize("spoil", [blurred, noisy, occluded])
def test_worse_images_score_worse(scale: Scale, spoil: Callable[[Tensor, int], Tensor]) -> None:
    held_out = load_dataset("digits", "test").read(torch.arange(scale.n))
    ladder = [scale.extractor(spoil(held_out, level)).pooled for level in (1, 2, 3)]
    found = [distance(scale.real, features) for features in (scale.held_out, *ladder)]
    assert found == sorted(found)
    assert found[3] > 1.5 * found[0]


@pytest.mark.parametrize("scale", SMALL, indirect=True)
def test_dropped_classes_cost_recall_and_coverage_but_no_precision(scale: Scale) -> None:
    digits = load_dataset("digits", "train")
    assert digits.labels is not None
    labels = digits.labels[: 4 * scale.n]
    features = scale.extractor(digits.read(torch.arange(len(labels)))).pooled
    size = int(labels.bincount().min())  # every class alone has as many
    means = []
    for num_classes in MODES:
        found = []
        for first in range(10):  # whichever classes are left
            left = ((labels - first) % 10 < num_classes).nonzero().squeeze(1)
            chosen = features[left[torch.arange(size) * len(left) // size]]
            fractions = precision_recall_density_coverage(scale.held_out, chosen, k=5)
            found.append([distance(scale.held_out, chosen), *map(float, fractions)])
        means.append(Tensor(found).mean(dim=0).tolist())
    distances, precision, recall, _, coverage = map(list, zip(*means, strict=True))
    assert distances == sorted(distances)
    for falling in (recall, coverage):
        assert falling == sorted(falling, reverse=True)
        assert falling[-1] < 0.7 * falling[0]
    assert precision == pytest.approx([precision[0]] * len(MODES), abs=0.05)
