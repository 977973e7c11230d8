from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nacgen.probes.retrieval import baselines
from nacgen.probes.retrieval.baselines import (
    BaselineMethod,
    baseline_codes,
    fit_rotation,
)

METHODS: tuple[BaselineMethod, ...] = ("lsh", "pca", "itq")


def features(rows: int, seed: int = 0) -> Tensor:
    """Axes of falling variance, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 12, generator=generator) * torch.arange(12, 0, -1) + 5


def error(projections: Tensor, rotation: Tensor) -> float:
    """Mean squared distance of rotated projections from the corners of the cube."""
    rotated = projections @ rotation
    return float((torch.where(rotated >= 0, 1.0, -1.0) - rotated).square().mean())


def test_itq_never_raises_its_objective_and_lowers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    projections = features(400).double()
    projections -= projections.mean(0)
    errors = []
    for n in (1, 2, 3, 10, baselines.NUM_ITERATIONS):
        monkeypatch.setattr(baselines, "NUM_ITERATIONS", n)
        errors.append(error(projections, fit_rotation(projections)))
    assert all(after <= before + 1e-12 for before, after in pairwise(errors))
    assert errors[-1] < 0.995 * errors[0]


def test_the_rotation_is_orthogonal() -> None:
    projections = features(400).double()
    matrix = fit_rotation(projections - projections.mean(0))
    assert torch.allclose(matrix @ matrix.T, torch.eye(12, dtype=torch.float64), atol=1e-12)


def test_itq_finds_the_rotation_that_hides_a_cube() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    hidden = torch.linalg.qr(draws).Q
    corners = torch.where(torch.rand(500, 4, generator=generator) < 0.5, 1.0, -1.0).double()
    rotations = [fit_rotation(corners @ hidden, seed) for seed in range(5)]
    fitted = min(rotations, key=lambda rotation: error(corners @ hidden, rotation))
    assert error(corners @ hidden, fitted) < 1e-20
    axes = hidden @ fitted  # up to the order and the signs of the axes
    assert torch.allclose(axes.abs().sort(1).values[:, -1], torch.ones(4, dtype=torch.float64))


def test_pca_takes_the_signs_along_the_largest_variances() -> None:
    train = (features(2_000) - 5) * 0.5 ** torch.arange(12) + 5  # variances far apart
    codes = baseline_codes(train, train, 2, "pca")
    centered = train - train.mean(0)
    for bit in range(2):
        agreement = (codes[:, bit] == (centered[:, bit] >= 0)).float().mean()
        assert max(agreement, 1 - agreement) > 0.97  # the sign of an axis is free


def test_lsh_bits_differ_with_the_angle() -> None:
    """Charikar 2002: two directions differ in a bit with probability angle / pi."""
    one = torch.eye(12)[0]
    angle = 0.7
    other = torch.cos(torch.tensor(angle)) * one + torch.sin(torch.tensor(angle)) * torch.eye(12)[1]
    train = torch.cat([features(50) - 5, 5 - features(50)])  # mean zero
    codes = baseline_codes(train, torch.stack([one, other]), 20_000, "lsh")
    assert (codes[0] != codes[1]).float().mean() == pytest.approx(angle / torch.pi, abs=0.015)


@pytest.mark.parametrize("method", METHODS)
def test_codes_are_balanced_and_a_function_of_the_seed(method: BaselineMethod) -> None:
    train, test = features(1_000), features(300, 1)
    codes = baseline_codes(train, test, 8, method, seed=3)
    assert codes.shape == (300, 8)
    assert codes.dtype == torch.bool
    assert (codes.float().mean(0) - 0.5).abs().max() < 0.15
    assert torch.equal(codes, baseline_codes(train, test, 8, method, seed=3))
    same = torch.equal(codes, baseline_codes(train, test, 8, method, seed=4))
    assert same == (method == "pca")


@pytest.mark.parametrize("method", METHODS)
def test_a_code_depends_on_its_own_image_and_the_training_images_only(
    method: BaselineMethod,
) -> None:
    train, test = features(200), features(50, 1)
    whole = baseline_codes(train, test, 6, method)
    assert torch.equal(baseline_codes(train, test[10:20], 6, method), whole[10:20])


@pytest.mark.parametrize("method", METHODS)
def test_neither_offset_nor_scale_of_the_features_matters(method: BaselineMethod) -> None:
    train, test = features(200), features(50, 1)
    codes = baseline_codes(train, test, 6, method)
    assert torch.equal(baseline_codes(4 * train + 64, 4 * test + 64, 6, method), codes)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_coded_is_named() -> None:
    train = features(20)
    with pytest.raises(ValueError, match=r"code of 13 bits .* 20 .* width 12 have 12"):
        baseline_codes(train, train, 13, "pca")
    with pytest.raises(
        ValueError, match=r"code of 8 bits .* 5 training features of width 12 have 4"
    ):
        baseline_codes(train[:5], train, 8, "itq")
    train[3, 2] = float("inf")
    with pytest.raises(ValueError, match=r"features must be finite, but 1 of \d+ values"):
        baseline_codes(train[:3], train, 4, "lsh")
