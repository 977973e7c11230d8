"""The same features give the same scores as the libraries that others use, up to named conventions."""

import math

import pytest
import scipy
import torch
from pytorch_fid import fid_score
from scipy import linalg
from torch import Tensor, nn
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from nacgen.functional.frechet import FrechetDistance, frechet_distance
from nacgen.functional.inception_score import inception_score
from nacgen.functional.kernel_distance import kernel_distance, kernel_distance_of_subsets
from nacgen.functional.neighbors import precision_recall_density_coverage

DIM = 12
SCIPY = tuple(map(int, scipy.__version__.split(".")[:2]))


def random_features(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(DIM, DIM, dtype=torch.float64, generator=generator)
    return torch.randn(n, DIM, dtype=torch.float64, generator=generator) @ mixing / 3


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return random_features(60, 0), random_features(60, 1) + 0.3


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.mean(0), torch.cov(rows.mT)


class Rows(nn.Module):
    """Features that are given as images of one pixel's height, for libraries that want a network."""

    num_features = DIM

    def forward(self, images: Tensor) -> Tensor:
        return images.double().flatten(1)


def as_images(features: Tensor) -> Tensor:
    return features.reshape(len(features), 3, 2, 2)


def test_frechet_distance_is_that_of_the_general_matrix_root(pair: tuple[Tensor, Tensor]) -> None:
    (mean_1, covariance_1), (mean_2, covariance_2) = map(moments, pair)
    root = linalg.sqrtm((covariance_1 @ covariance_2).numpy())
    expected = (mean_1 - mean_2).square().sum() + (covariance_1 + covariance_2).trace()
    expected -= 2 * root.real.trace()
    distance = frechet_distance(mean_1, covariance_1, mean_2, covariance_2)
    assert distance.value.item() == pytest.approx(expected.item(), rel=1e-11)


def frechet_of(rows_1: Tensor, rows_2: Tensor) -> FrechetDistance:
    return frechet_distance(*moments(rows_1), *moments(rows_2))


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.skipif(SCIPY >= (1, 18), reason="pytorch-fid 0.3.0 uses what SciPy 1.18 removed")
def test_frechet_distance_is_that_of_pytorch_fid(pair: tuple[Tensor, Tensor]) -> None:
    statistics = [part.numpy() for rows in pair for part in moments(rows)]
    expected = fid_score.calculate_frechet_distance(*statistics)
    assert frechet_of(*pair).value.item() == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_is_that_of_torch_fidelity(pair: tuple[Tensor, Tensor]) -> None:
    statistics = [metric_fid.fid_features_to_statistics(rows) for rows in pair]
    expected = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    assert frechet_of(*pair).value.item() == pytest.approx(
        expected[metric_fid.KEY_METRIC_FID], rel=1e-10
    )


def test_frechet_distance_is_that_of_torchmetrics(pair: tuple[Tensor, Tensor]) -> None:
    metric = FrechetInceptionDistance(feature=Rows(), input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    for rows, is_real in zip(pair, (True, False), strict=True):
        metric.update(as_images(rows), real=is_real)
    assert frechet_of(*pair).value.item() == pytest.approx(
        metric.compute().item(), rel=1e-6
    )  # its last step is float32


def test_kernel_distance_is_that_of_torch_fidelity(pair: tuple[Tensor, Tensor]) -> None:
    expected = metric_kid.kid_features_to_metric(
        *pair, kid_subsets=2, kid_subset_size=60, verbose=False
    )
    value = expected[metric_kid.KEY_METRIC_KID_MEAN]
    for found in (
        kernel_distance_of_subsets(*pair, num_subsets=2, subset_size=60),
        kernel_distance(*pair),
    ):
        assert found.value.item() == pytest.approx(value, rel=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kernel_distance_is_that_of_torchmetrics(pair: tuple[Tensor, Tensor]) -> None:
    metric = KernelInceptionDistance(feature=Rows(), subsets=2, subset_size=60)
    for rows, is_real in zip(pair, (True, False), strict=True):
        metric.update(as_images(rows), real=is_real)
    mean, _ = metric.compute()
    assert kernel_distance(*pair).value.item() == pytest.approx(mean.item(), rel=1e-6)


def test_inception_score_is_that_of_torch_fidelity_without_shuffling() -> None:
    """By default it shuffles the images first, which changes the splits."""
    logits = 2 * random_features(57, 0)
    expected = metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    found = inception_score(logits)
    assert [found.value.item(), found.spread.item()] == pytest.approx(list(expected.values()))


def test_inception_score_is_that_of_torchmetrics_in_one_split() -> None:
    """It shuffles, cuts by `chunk`, and divides the variance by the splits less one."""
    logits = 2 * random_features(57, 0)
    with pytest.warns(UserWarning, match="buffer"):
        metric = InceptionScore(feature=Rows(), splits=1)
    metric.update(as_images(logits))
    with pytest.warns(UserWarning, match="degrees of freedom"):
        mean, spread = metric.compute()
    assert inception_score(logits, num_splits=1).value.item() == pytest.approx(mean.item())
    assert math.isnan(spread)


@pytest.mark.parametrize("k", [3, 5])
def test_precision_and_recall_are_those_of_torch_fidelity(
    k: int, pair: tuple[Tensor, Tensor]
) -> None:
    """Its first set is the generated one, and it takes 3 neighbours by default."""
    real, generated = pair
    expected = metric_prc.prc_features_to_metric(
        generated,
        real,
        prc_neighborhood=k,
        prc_batch_size=100,
        save_cpu_ram=False,
        verbose=False,
    )
    found = precision_recall_density_coverage(real, generated, k=k)
    assert found.precision.item() == pytest.approx(expected[metric_prc.KEY_METRIC_PRECISION])
    assert found.recall.item() == pytest.approx(expected[metric_prc.KEY_METRIC_RECALL])
