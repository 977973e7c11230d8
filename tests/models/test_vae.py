from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.vae import VAE, Decoder, GaussianLikelihood
from nacgen.system.randomness import seeded


class LinearEncoder(nn.Module):
    """Means and log-variances by one linear map each."""

    def __init__(self, latent_dim: int, image_size: int = 16) -> None:
        super().__init__()
        self.maps = nn.Linear(3 * image_size**2, 2 * latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = (0.1 * self.maps(images.flatten(1))).chunk(2, dim=1)
        return mean, log_variance


def build(likelihood: str = "gaussian", latent_dim: int = 6) -> VAE:
    with seeded(0, "test"):
        decoder = Decoder(16, 6, (16, 8, 8), likelihood)
        return VAE(LinearEncoder(latent_dim), decoder)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("likelihood", "channels"), [("gaussian", 3), ("logistic_mixture", 100)])
def test_shapes_and_gradients(likelihood: str, channels: int) -> None:
    vae, images = build(likelihood), draw(4, 3, 16, 16).clamp(-1, 1)
    output = vae(images, draw(4, 6))
    assert output.mean.shape == output.log_variance.shape == (4, 6)
    assert output.outputs.shape == (4, channels, 16, 16)
    log_likelihood = vae.decoder.likelihood(images, output.outputs)
    assert log_likelihood.shape == (4,)
    log_likelihood.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in vae.parameters())
    expected = vae.decoder.images(draw(4, 6))
    assert expected.shape == images.shape
    assert expected.abs().max() <= 1


def test_without_noise_the_means_are_decoded() -> None:
    vae, images = build(), draw(2, 3, 16, 16).clamp(-1, 1)
    mean, log_variance = vae.posterior(images)
    torch.testing.assert_close(vae(images, torch.zeros(2, 6)).outputs, vae.decoder(mean))
    z = mean + log_variance.exp().sqrt() * draw(2, 6)
    torch.testing.assert_close(vae(images, draw(2, 6)).outputs, vae.decoder(z))


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic_mixture"])
def test_a_decoder_is_saved_and_loaded_bit_for_bit(tmp_path: Path, likelihood: str) -> None:
    decoder = build(likelihood).decoder
    if isinstance(decoder.likelihood, GaussianLikelihood):
        decoder.likelihood.variance.fill_(0.3)
    decoder.save_pretrained(tmp_path / "decoder")
    loaded = Decoder.from_pretrained(tmp_path / "decoder")
    assert type(loaded.likelihood) is type(decoder.likelihood)
    state = decoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert torch.equal(loaded.images(draw(3, 6)), decoder.images(draw(3, 6)))


def test_the_variance_follows_the_mean_squared_error_of_what_is_not_cut_off() -> None:
    likelihood = GaussianLikelihood()
    images = draw(8, 3, 4, 4).clamp(-0.9, 0.9)
    outputs = images + 0.2 * draw(8, 3, 4, 4).flip(0)
    likelihood.refit(images, outputs, average=lambda value: value)
    error = (images - outputs).square().mean()
    assert likelihood.variance.item() == pytest.approx(error.item(), rel=1e-3)
    likelihood.refit(images, images, average=lambda value: value)
    assert likelihood.variance.item() == pytest.approx((2 / 255) ** 2 / 12)  # that of rounding
    likelihood.refit(images, outputs, average=lambda value: torch.full_like(value, 0.5))
    assert likelihood.variance == 0.5  # what all processes agree on


def test_latents_of_another_width_are_refused() -> None:
    images = torch.zeros(2, 3, 16, 16)
    with pytest.raises(
        ValueError, match="6 wide for this decoder, got 5 from the encoder and noise of 6"
    ):
        build(latent_dim=5)(images, torch.zeros(2, 6))
    with pytest.raises(ValueError, match="got 6 from the encoder and noise of 7"):
        build()(images, torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 32}, r"32 px with channels \(96, 64, 32\)"),
        ({"channels": (96, 60, 32)}, r"multiples of 8, got \(96, 60, 32\)"),
        ({"latent_dim": 0}, "one or more, got 0"),
        ({"likelihood": "cauchy"}, "gaussian, logistic_mixture, got 'cauchy'"),
    ],
)
def test_a_decoder_that_cannot_be_built(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Decoder(**options)  # type: ignore[arg-type]


def test_images_outside_of_the_likelihoods_range_are_refused() -> None:
    likelihood = build().decoder.likelihood
    with pytest.raises(ValueError, match=r"in \[-1, 1\], got values from 0 to 255"):
        likelihood(torch.tensor([0.0, 255.0]).repeat(1, 3, 16, 8), torch.zeros(1, 3, 16, 16))
