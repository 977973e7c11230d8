import itertools

import pytest
import torch
from torch import Tensor

from nacgen.functional.alignment import (
    alignment_loss,
    resize_maps,
    spatial_structure,
    standardize_over_space,
)


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_features_have_loss_0_and_opposite_ones_2() -> None:
    x = maps(3, 8, 4, 4)
    torch.testing.assert_close(alignment_loss(x, 5 * x), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(alignment_loss(x, -x / 7), torch.full((3,), 2.0))
    assert torch.equal(alignment_loss(x, torch.zeros_like(x)), torch.ones(3))


def test_loss_is_the_mean_over_positions_written_out() -> None:
    x, y = maps(2, 5, 3, 2).double(), maps(2, 5, 3, 2, seed=1).double()
    for image, loss in enumerate(alignment_loss(x, y)):
        cosines = [
            x[image, :, i, j].dot(y[image, :, i, j])
            / (x[image, :, i, j].norm() * y[image, :, i, j].norm())
            for i, j in itertools.product(range(3), range(2))
        ]
        assert float(loss) == pytest.approx(1 - sum(map(float, cosines)) / 6, abs=1e-6)


def test_the_gradient_is_finite_where_a_map_is_zero() -> None:
    x = torch.zeros(2, 4, 3, 3, requires_grad=True)
    alignment_loss(x, maps(2, 4, 3, 3)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_maps_of_unlike_shape_are_refused(as_users_run_it: None) -> None:
    with pytest.raises(ValueError, match=r"got \(2, 4, 3, 3\) and \(2, 4, 2, 2\)\. Bring"):
        alignment_loss(maps(2, 4, 3, 3), maps(2, 4, 2, 2))


def test_standardized_channels_are_numpys_z_scores() -> None:
    x = 3 + 2 * maps(4, 6, 5, 3)
    array = x.double().numpy()
    mean, std = array.mean((2, 3), keepdims=True), array.std((2, 3), keepdims=True)
    expected = torch.from_numpy((array - mean) / std).float()
    torch.testing.assert_close(standardize_over_space(x), expected, rtol=1e-5, atol=1e-5)


def test_a_channel_that_only_varies_by_rounding_stays_near_zero() -> None:
    x = maps(1, 3, 4, 4).relu()
    x[:, 1] = 1 + 1e-6 * maps(1, 4, 4, seed=1)
    assert standardize_over_space(x)[:, 1].abs().max() < 0.01
    assert torch.equal(standardize_over_space(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 2, 3, 3))


def test_maps_shrink_by_averaging_and_grow_between_their_values() -> None:
    x = maps(2, 3, 8, 8)
    torch.testing.assert_close(resize_maps(x, 2, 2), torch.nn.AvgPool2d(4)(x))
    assert torch.equal(resize_maps(x, 8, 8), x)
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    expected = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
    torch.testing.assert_close(resize_maps(ramp, 8, 8), expected.expand(1, 1, 8, 8))


def test_spatial_structure_is_that_of_a_loop_over_pairs() -> None:
    x = maps(2, 4, 5, 4)
    for image, found in enumerate(spatial_structure(x)):
        near, far = [], []
        places = list(itertools.product(range(5), range(4)))
        for (a, b), (c, d) in itertools.permutations(places, 2):
            cosine = torch.cosine_similarity(x[image, :, a, b], x[image, :, c, d], dim=0)
            (near if abs(a - c) + abs(b - d) < 2.5 else far).append(float(cosine))
        assert float(found) == pytest.approx(sum(near) / len(near) - sum(far) / len(far), abs=1e-5)


def test_smooth_maps_have_structure_and_noise_and_constants_have_none() -> None:
    noise = maps(8, 16, 8, 8)
    smooth = resize_maps(maps(8, 16, 2, 2), 8, 8)
    assert spatial_structure(smooth).min() > 0.3
    assert spatial_structure(noise).abs().max() < 0.05
    torch.testing.assert_close(spatial_structure(torch.ones(1, 2, 4, 4)), torch.zeros(1))
    with pytest.raises(ValueError, match="three rows or columns or more, got 2x2"):
        spatial_structure(noise[..., :2, :2])
