import copy

import pytest
import torch
from torch import Tensor

from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.perceptual import PerceptualDistance
from nacgen.transplant.transplant import transplant


def images(seed: int = 0, size: int = 16) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def encoder() -> NACEncoder:
    return NACEncoder.from_pretrained("checkpoints/digits-nac").eval()


def test_it_compares_directions_of_features_at_every_pixel(encoder: NACEncoder) -> None:
    """Against unit vectors written out: |u - v|^2 = 2 - 2 cos, averaged over pixels, then over stages."""
    part = transplant(encoder, into="perceptual", return_nodes=["layer1", "layer3"])
    first, second = encoder.feature_maps(images(0)), encoder.feature_maps(images(1))
    stages = []
    for node in ("layer1", "layer3"):
        cosine = torch.cosine_similarity(first[node].double(), second[node].double(), dim=1)
        stages.append((2 - 2 * cosine).mean((1, 2)))
    expected = torch.stack(stages).mean(0).float()
    torch.testing.assert_close(part.module(images(0), images(1)), expected, rtol=1e-3, atol=1e-4)


def test_it_is_a_symmetric_distance_of_any_size(encoder: NACEncoder) -> None:
    distance = transplant(encoder, into="perceptual").module
    for size in (16, 24):
        first, second = images(0, size), images(1, size)
        assert torch.equal(distance(first, first), torch.zeros(4))
        torch.testing.assert_close(distance(first, second), distance(second, first))
        assert (distance(first, second) > 0.01).all()


def test_gradients_reach_images_and_nothing_else(encoder: NACEncoder) -> None:
    part = transplant(encoder, into="perceptual")
    before = copy.deepcopy(part.module.state_dict())
    x = images(0).requires_grad_()
    part.module.train()(x, images(1)).sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((1, 2, 3)) > 0).all()
    assert all(p.grad is None for p in part.module.parameters())
    assert all(torch.equal(before[k], v) for k, v in part.module.state_dict().items())
    with pytest.raises(ConfigurationError, match="all parameters of PerceptualDistance are frozen"):
        part.param_groups(0.1)


def test_gradients_are_finite_where_features_vanish(encoder: NACEncoder) -> None:
    part = transplant(encoder, into="perceptual")
    with torch.no_grad():
        for name, parameter in part.module.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(-1)  # at the mean colour every unit stays below its threshold
    x = (part.module.trunk.mean * 2 - 1).expand(2, 3, 16, 16).clone().requires_grad_()
    assert all((m == 0).all() for m in part.module.trunk(x).values())
    distance = part.module(x, images(1)[:2])
    distance.sum().backward()
    assert distance.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_trunk_that_trains_is_refused(encoder: NACEncoder) -> None:
    trunk = transplant(encoder, mode="partial", image_size=16).module.trunk
    with pytest.raises(ConfigurationError, match="must be frozen, got stem, layer1"):
        PerceptualDistance(trunk)
