import math

import pytest
import torch
from torch import Tensor

from nacgen.functional.distillhash import (
    NUM_BINS,
    cosine_distances,
    distilled_pair_labels,
    feature_neighbors,
    fit_half_gaussians,
    noisy_pair_labels,
    noisy_pair_loss,
    pair_likelihood_loss,
    pair_posterior,
    quantization_loss,
)
from tests.reference import distillhash as reference


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def clustered(size: int, num_clusters: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features around a few centres, and whose they are."""
    owner = torch.arange(size) % num_clusters
    return 0.8 * normal(num_clusters, 64, seed)[owner] + normal(size, 64, seed + 1), owner


def random_labels(size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    upper = torch.randint(-1, 2, (size, size), generator=generator).triu()
    return (upper + upper.triu(1).T).to(torch.int8)


def test_cosine_distances_equal_loops() -> None:
    features = normal(7, 5)
    rows = features.tolist()
    expected = [[reference.cosine_distance(a, b) for b in rows] for a in rows]
    distances = cosine_distances(features)
    assert torch.allclose(distances, torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    assert distances.diagonal().tolist() == [0.0] * 7
    assert torch.equal(distances, distances.T)


def test_the_fit_equals_loops() -> None:
    distances = cosine_distances(normal(60, 8))
    expected = reference.half_gaussians(distances.tolist(), NUM_BINS)
    assert fit_half_gaussians(distances) == pytest.approx(expected, rel=1e-9)


def test_the_fit_finds_the_two_halves_that_distances_were_drawn_from() -> None:
    size, generator = 600, torch.Generator().manual_seed(0)
    draws = torch.randn(size, size, dtype=torch.float64, generator=generator).abs()
    is_left = torch.rand(size, size, generator=generator) < 0.4
    upper = torch.where(is_left, 0.7 - 0.12 * draws, 0.7 + 0.18 * draws).triu(1)
    fit = fit_half_gaussians(upper + upper.T)
    # 0.4 / 0.12 = 0.6 / 0.18: the two halves meet at one height
    assert fit.mode == pytest.approx(0.7, abs=0.06)
    assert fit.std_left == pytest.approx(0.12, abs=0.03)
    assert fit.std_right == pytest.approx(0.18, abs=0.03)


def test_noisy_labels_follow_the_thresholds() -> None:
    distances = cosine_distances(clustered(100)[0])
    fit, labels = fit_half_gaussians(distances), noisy_pair_labels(distances)
    off_diagonal = ~torch.eye(100, dtype=torch.bool)
    assert torch.equal(
        (labels == 1) & off_diagonal, (distances < fit.mode - 2 * fit.std_left) & off_diagonal
    )
    assert torch.equal(labels == -1, distances > fit.mode + 2 * fit.std_right)
    assert (labels.diagonal() == 1).all()
    assert torch.equal(labels, labels.T)
    assert (labels == 0).any()


def test_noisy_labels_of_clusters_are_nearly_all_right() -> None:
    features, owner = clustered(200)
    labels = noisy_pair_labels(cosine_distances(features))
    same = owner[:, None] == owner
    pairs = ~torch.eye(200, dtype=torch.bool)
    assert same[pairs].float().mean() < 0.1
    assert same[(labels == 1) & pairs].float().mean() > 0.95
    assert (~same)[labels == -1].float().mean() > 0.95


def test_neighbours_are_the_nearest_and_the_image_itself_comes_first() -> None:
    features = normal(30, 4)
    features[7] = features[3]  # a duplicate must not take the image's own place
    distances = cosine_distances(features)
    neighbors = feature_neighbors(distances, 6)
    assert neighbors[:, 0].tolist() == list(range(30))
    for i, row in enumerate(distances.tolist()):
        others = sorted(row[j] for j in range(30) if j != i)[:5]
        assert [row[j] for j in neighbors[i, 1:].tolist()] == pytest.approx(others)


def test_the_posterior_and_distilled_labels_equal_loops() -> None:
    outputs = torch.tanh(1.2 * normal(25, 6))
    posterior = pair_posterior(outputs)
    neighbors = feature_neighbors(cosine_distances(normal(25, 4, 1)), 3)
    labels = distilled_pair_labels(posterior, neighbors)
    rows = outputs.tolist()
    loops = [[reference.posterior(a, b) for b in rows] for a in rows]
    assert torch.allclose(posterior, torch.tensor(loops, dtype=torch.float64), atol=1e-12)
    expected = [
        [reference.distilled_label(i, j, loops, neighbors.tolist()) for j in range(25)]
        for i in range(25)
    ]
    assert labels.tolist() == expected
    assert set(labels.flatten().tolist()) == {-1, 0, 1}


def test_labels_of_known_noise_are_all_right() -> None:
    """P = (1 - rho_plus - rho_minus) eta + rho_minus with constant rates."""
    eta = torch.sigmoid(6 * normal(40, 40))
    rho_plus, rho_minus = 0.25, 0.1
    posterior = (1 - rho_plus - rho_minus) * eta + rho_minus
    labels = distilled_pair_labels(
        posterior, feature_neighbors(cosine_distances(normal(40, 4)), 20)
    )
    assert (eta[labels == 1] > 0.5).all()
    assert (eta[labels == -1] < 0.5).all()
    assert (labels != 0).float().mean() > 0.8
    raw = torch.where(posterior > 0.5, 1, -1)
    assert not ((raw == 1) == (eta > 0.5)).all()  # without distillation some are wrong


def test_losses_equal_loops() -> None:
    outputs, labels = torch.tanh(normal(9, 6)), random_labels(9)
    rows, pairs = outputs.tolist(), labels.tolist()
    assert noisy_pair_loss(outputs, labels).tolist() == pytest.approx(
        reference.noisy_loss(rows, pairs), abs=1e-12
    )
    assert pair_likelihood_loss(outputs, labels).tolist() == pytest.approx(
        reference.likelihood_loss(rows, pairs), abs=1e-12
    )
    expected = [sum((abs(x) - 1) ** 2 for x in row) / 6 for row in rows]
    assert quantization_loss(outputs).tolist() == pytest.approx(expected, abs=1e-12)


def test_codes_that_obey_their_labels_lose_nothing() -> None:
    codes = torch.tensor([[1.0, 1, -1, 1], [1, 1, -1, 1], [-1, -1, 1, -1]]).double()
    labels = (codes @ codes.T / 4).to(torch.int8)
    assert noisy_pair_loss(codes, labels).tolist() == [0, 0, 0]
    assert quantization_loss(codes).tolist() == [0, 0, 0]
    nats = math.log1p(math.exp(-2))  # every pair is right by h.h / 2 = 2
    assert pair_likelihood_loss(codes, labels).tolist() == pytest.approx([nats] * 3)


def test_pairs_without_a_label_neither_count_nor_pull() -> None:
    outputs = torch.tanh(normal(5, 4)).requires_grad_()
    none = torch.zeros(5, 5, dtype=torch.int8)
    for loss in (noisy_pair_loss, pair_likelihood_loss):
        value = loss(outputs, none)
        assert value.tolist() == [0.0] * 5
        (gradient,) = torch.autograd.grad(value.sum(), outputs)
        assert gradient.abs().max() == 0


@pytest.mark.parametrize("loss", [noisy_pair_loss, pair_likelihood_loss])
def test_gradients(loss: object) -> None:
    outputs, labels = torch.tanh(normal(5, 4)).requires_grad_(), random_labels(5)
    assert torch.autograd.gradcheck(lambda h: loss(h, labels), (outputs,))  # type: ignore[operator]


def test_the_quantization_gradient() -> None:
    outputs = torch.tanh(normal(5, 4)).requires_grad_()
    assert torch.autograd.gradcheck(quantization_loss, (outputs,))


def test_the_likelihood_stays_finite_where_the_posterior_is_saturated() -> None:
    outputs = (100 * torch.ones(2, 64)).requires_grad_()
    loss = pair_likelihood_loss(outputs, torch.full((2, 2), -1, dtype=torch.int8))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


@pytest.mark.usefixtures("as_users_run_it")
def test_what_cannot_be_used_is_named() -> None:
    features = normal(4, 3)
    broken = features.clone()
    broken[1, 1] = float("nan")
    with pytest.raises(ValueError, match="features must be finite, got 1 values"):
        cosine_distances(broken)
    features[2] = 0
    with pytest.raises(ValueError, match="got 1 rows of zeros"):
        cosine_distances(features)
    with pytest.raises(ValueError, match=r"three images or more, got \(2, 2\)"):
        fit_half_gaussians(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"differ, got values from 0\.5 to 0\.5"):
        fit_half_gaussians(torch.full((4, 4), 0.5))


def test_distances_that_give_one_kind_of_pair_are_refused() -> None:
    """Nearly uniform distances: no pair lies two deviations above the mode."""
    position = torch.linspace(0, 1, 40, dtype=torch.float64)
    distances = (position[:, None] - position).abs()  # the mode is at zero
    with pytest.raises(ValueError, match=r"got 0 below -?[\d.]+ and \d+ above"):
        noisy_pair_labels(distances)
