import copy

import pytest
import torch
from torch import Tensor

from nacgen.models.encoder import NACEncoder
from nacgen.transplant import Transplant, VAEEncoder, into_vae_encoder


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def build(mode: str = "init", **options: object) -> Transplant[VAEEncoder]:
    encoder = NACEncoder.from_pretrained("checkpoints/digits-nac")
    return into_vae_encoder(encoder, mode=mode, image_size=16, latent_dim=5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["init", "partial", "frozen"])
def test_posteriors_start_near_the_prior(mode: str) -> None:
    part = build(mode)
    mean, log_variance = part.module(images())
    assert mean.shape == log_variance.shape == (8, 5)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    assert 0 < kl.min() <= kl.max() < 0.5
    alone = part.module(images()[3:4])
    torch.testing.assert_close(alone, (mean[3:4], log_variance[3:4]), rtol=1e-3, atol=1e-5)


def test_the_head_is_linear_in_maps_of_one_size() -> None:
    module = build(return_nodes=["layer3", "layer1"], rgb_branch=True).module
    maps = module.trunk(images())
    assert module.rgb_branch is not None
    rgb, quarter = module.rgb_branch(images()), torch.nn.AvgPool2d(4)
    pooled = [quarter(maps["layer1"]), maps["layer3"], torch.nn.AvgPool2d(2)(rgb)]
    expected = module.head(torch.cat(pooled, dim=1).flatten(1))
    torch.testing.assert_close(torch.cat(module(images()), dim=1), expected)


def test_places_in_the_image_stay_told_apart() -> None:
    module, flipped = build().module, images().flip(-1)
    assert (module(images())[0] - module(flipped)[0]).abs().max() > 1e-3


def test_a_frozen_trunk_is_unchanged_by_training() -> None:
    part = build("frozen")
    before = copy.deepcopy(part.module.state_dict())
    optimizer = torch.optim.Adam(part.param_groups(1e-2))
    for _ in range(2):
        mean, log_variance = part.module.train()(images())
        (mean.sum() + log_variance.square().sum() + mean.square().sum()).backward()
        optimizer.step()
    moved = {
        name.split(".")[0]
        for name, value in part.module.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"head", "rgb_branch"}


def test_stages_above_the_last_tap_do_not_train() -> None:
    module = build(return_nodes=["layer1"]).module
    torch.cat(module(images()), dim=1).square().sum().backward()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in module.named_parameters() if p.grad is not None}
    assert any("layer1" in name for name in trained)
    assert not any("layer2" in name for name in trained)
