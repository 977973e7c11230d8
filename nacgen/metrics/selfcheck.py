"""A check of an installation: scores against numbers that follow from a formula or from arithmetic by hand."""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.data.image_sets import ImageSet, open_folder
from nacgen.data.pictures import write_image
from nacgen.data.pixels import to_uint8
from nacgen.errors import NacgenError
from nacgen.functional.frechet import frechet_distance
from nacgen.functional.inception_score import inception_score
from nacgen.functional.kernel_distance import kernel_distance_of_subsets
from nacgen.functional.neighbors import precision_recall_density_coverage
from nacgen.metrics.evaluation import evaluate
from nacgen.metrics.extractors.build import build_extractor
from nacgen.metrics.extractors.resize import resize_bilinear, resize_tf1


class Check(NamedTuple):
    """A claim, the number it promises, the number that came, and the largest difference allowed."""

    claim: str
    expected: float
    found: float
    tolerance: float = 1e-9

    @property
    def holds(self) -> bool:
        """True if the number came."""
        return abs(self.found - self.expected) <= self.tolerance


def print_checks() -> None:
    """Make all checks and print a line for each; raise an error if one failed."""
    failed = 0
    for check in selfcheck():
        failed += not check.holds
        outcome = "ok  " if check.holds else "FAIL"
        print(f"{outcome} {check.claim} = {check.expected:.6g}, got {check.found:.6g}", flush=True)
    if failed:
        raise NacgenError(
            f"{failed} checks failed: scores of this installation are wrong. Compare the versions of torch, "
            "numpy and pillow with those in pyproject.toml."
        )


def selfcheck() -> Iterator[Check]:
    """Compute every number that is known beforehand, one check after the other."""
    for part in (_frechet, _others, _pixels, _images):
        yield from part()


def _frechet() -> Iterator[Check]:
    def distance(
        mean_1: Tensor, covariance_1: Tensor, mean_2: Tensor, covariance_2: Tensor
    ) -> float:
        parts = (part.double() for part in (mean_1, covariance_1, mean_2, covariance_2))
        return float(frechet_distance(*parts).value)

    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    found = distance(one, torch.eye(1), one + 3, 4 * torch.eye(1))
    yield Check("Fréchet distance of N(0, 1) and N(3, 4): 3^2 + (1 - 2)^2", 10, found)
    found = distance(three, torch.diag(Tensor([1, 4, 9])), three + 1, torch.diag(Tensor([4, 1, 9])))
    yield Check("… of diagonal Gaussians: 3 + 1^2 + 1^2 + 0^2", 5, found)
    found = distance(two, Tensor([[2, 1], [1, 2]]), two, Tensor([[3, 0], [0, 1]]))
    yield Check(
        "… of covariances that do not commute: 8 - 2 sqrt(8 + 2 * 3)", 8 - 2 * math.sqrt(14), found
    )
    found = distance(three, torch.ones(3, 3), three, torch.ones(3, 3))
    yield Check("… of a Gaussian on a line and itself", 0, found, 1e-6)


def _others() -> Iterator[Check]:
    x, y = Tensor([[0], [2]]), Tensor([[1], [1]])
    found = kernel_distance_of_subsets(x, y, num_subsets=1, subset_size=2)
    yield Check("kernel distance of {0, 2} and {1, 1}: 1 + 8 - 2 * 14", -19, float(found.value))
    sure = 1000 * torch.eye(4).repeat(3, 1)
    score = inception_score(sure, num_splits=1).value
    yield Check("Inception Score of 4 classes, each certain", 4, float(score))
    score = inception_score(torch.zeros(6, 4), num_splits=2).value
    yield Check("Inception Score of a classifier that cannot tell", 1, float(score))
    modes = Tensor([[0], [10]]).repeat_interleave(6, dim=0)
    fractions = precision_recall_density_coverage(modes, modes[:6], k=5)
    yield Check(
        "precision of a generator that repeats one of two modes", 1, float(fractions.precision)
    )
    yield Check("… its recall", 0.5, float(fractions.recall))
    yield Check("… its coverage", 0.5, float(fractions.coverage))


def _pixels() -> Iterator[Check]:
    row = Tensor([0, 100]).expand(1, 1, 2, 2)
    for name, resize, second in (("pytorch_fid", resize_bilinear, 25), ("tf1", resize_tf1, 50)):
        found = float(resize(row, 4)[0, 0, 0, 1])
        yield Check(f"second pixel of [0, 100] enlarged to four, resize {name}", second, found)
    gray = to_uint8(torch.zeros(1, 3, 1, 1))
    yield Check("gray, 127.5, is rounded half up", 128, float(gray[0, 0, 0, 0]))


def _images() -> Iterator[Check]:
    extractor = build_extractor("digits_classifier")
    digits = load_dataset("digits", "test")
    images = digits.read(torch.arange(100))
    reference = ImageDataset("digits", "first 100", images, None)

    def score(images: ImageSet, batch_size: int = 100) -> float:
        result = evaluate(
            images.read, reference, extractor=extractor, num_samples=100, batch_size=batch_size
        )
        return result.scores[extractor.score_name].value

    yield Check("images scored against themselves", 0, score(reference), 1e-6)
    other = ImageDataset("digits", "next 100", digits.read(torch.arange(100, 200)), None)
    expected = score(other)
    yield Check("a score in batches of 7 and of 100", expected, score(other, 7), 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(other.images):
            write_image(image, Path(folder) / f"{i:03}.png")
        found = score(open_folder(Path(folder)))
        yield Check("a tensor's score and that of its PNG files", expected, found, 0)
