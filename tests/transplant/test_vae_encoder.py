import pytest
import torch

from nacgen.models.encoder import NACEncoder
from nacgen.transplant import Transplant, VAEEncoder, into_vae_encoder
from tests.transplant.conftest import images


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
