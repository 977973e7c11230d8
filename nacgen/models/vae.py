"""Likelihoods of images, a decoder of latents into one, and a variational autoencoder."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import check_choice
from nacgen.functional.likelihoods import (
    SMALLEST_VARIANCE,
    expected_squared_error,
    gaussian_log_likelihood,
    logistic_mixture_channels,
    logistic_mixture_log_likelihood,
    logistic_mixture_mean,
)
from nacgen.models.gan import GeneratorBlock, channels_for, check_upsampling
from nacgen.models.image_model import PretrainedImageModel

Images = Float[Tensor, "b 3 h w"]
Outputs = Float[Tensor, "b p h w"]
Average = Callable[[Tensor], Tensor]  # of a scalar over processes


class Likelihood(nn.Module, ABC):
    """A distribution of images with 256 values per pixel; a network gives `num_outputs` parameters per pixel."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    @abstractmethod
    def forward(self, images: Images, outputs: Outputs) -> Float[Tensor, " b"]:
        """Compute the log-likelihood of images in [-1, 1] given a decoder's outputs, in nats."""

    @abstractmethod
    def mean(self, outputs: Outputs) -> Images:
        """Return the mean images, in [-1, 1]."""

    def refit(self, images: Images, outputs: Outputs, average: Average) -> None:
        """Fit what has a closed form, by default nothing; `average` averages a scalar over processes."""


class GaussianLikelihood(Likelihood):
    """Independent Gaussian pixels around the outputs, with one variance for all, which is a buffer.

    `refit` takes one step of expectation-maximization towards the variance of greatest likelihood, so there is no
    weight between reconstruction and divergence to choose (arXiv:2006.13202). Differs from the paper: pixels are
    rounded to 256 values; in the limit of fine steps the optimum is the paper's mean squared error.
    """

    variance: Tensor

    def __init__(self) -> None:
        super().__init__(num_outputs=3)
        self.register_buffer("variance", torch.tensor(1.0))

    def forward(self, images: Images, outputs: Images) -> Float[Tensor, " b"]:
        """Compute the log-likelihood of images in nats."""
        return gaussian_log_likelihood(images, outputs.float(), self.variance)

    def mean(self, outputs: Images) -> Images:
        """Return the outputs, clamped to [-1, 1]."""
        return outputs.float().clamp(-1, 1)

    @torch.no_grad()
    def refit(self, images: Images, outputs: Images, average: Average) -> None:
        """Move the variance towards its optimum for these images."""
        error = expected_squared_error(images, outputs.float(), self.variance).mean()
        self.variance.copy_(average(error).clamp(min=SMALLEST_VARIANCE))


class LogisticMixtureLikelihood(Likelihood):
    """Mixtures of ten logistics per pixel, where green depends on red, and blue on both (arXiv:1701.05517)."""

    def __init__(self) -> None:
        super().__init__(num_outputs=logistic_mixture_channels(num_mixtures=10))

    def forward(self, images: Images, outputs: Outputs) -> Float[Tensor, " b"]:
        """Compute the log-likelihood of images in nats."""
        return logistic_mixture_log_likelihood(images, outputs.float())

    def mean(self, outputs: Outputs) -> Images:
        """Return the mean of the mixture, with each component clamped to [-1, 1]."""
        return logistic_mixture_mean(outputs.float())


LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "gaussian": GaussianLikelihood,
    "logistic_mixture": LogisticMixtureLikelihood,
}


class Decoder(nn.Module, PretrainedImageModel):
    """A decoder of latents into a likelihood of images: residual blocks from 4x4 upwards.

    Sizes are those of `nacgen.models.gan.Generator`. The likelihood is `"gaussian"`, with optimal variance, or
    `"logistic_mixture"`, with ten components.
    """

    about = "The decoder of a variational autoencoder, from standard normal latents to images."

    def __init__(
        self,
        image_size: int = 16,
        latent_dim: int = 32,
        channels: Sequence[int] = channels_for(16),
        likelihood: str = "gaussian",
    ) -> None:
        super().__init__()
        check_upsampling(image_size, latent_dim, channels, "--decoder.channels")
        check_choice("likelihood", likelihood, LIKELIHOODS)
        self.latent_dim, self.image_size = latent_dim, image_size
        self.likelihood = LIKELIHOODS[likelihood]()
        self.first = nn.Linear(latent_dim, channels[0] * 16)
        self.blocks = nn.Sequential(*(GeneratorBlock(a, b) for a, b in pairwise(channels)))
        self.norm = nn.GroupNorm(8, channels[-1])
        self.to_outputs = nn.Conv2d(channels[-1], self.likelihood.num_outputs, 3, padding=1)

    def forward(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b p h w"]:
        """Return the parameters of the likelihood, `likelihood.num_outputs` numbers per pixel."""
        x = rearrange(self.first(z), "b (c h w) -> b c h w", h=4, w=4)
        outputs: Tensor = self.to_outputs(F.silu(self.norm(self.blocks(x))))
        return outputs

    def images(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b 3 h w"]:
        """Return the mean images of latents, in [-1, 1], without the likelihood's noise."""
        return self.likelihood.mean(self(z))


class VAEOutput(NamedTuple):
    """Posteriors of images, and the decoder's outputs for one sample of each."""

    mean: Float[Tensor, "b z"]
    log_variance: Float[Tensor, "b z"]
    outputs: Float[Tensor, "b p h w"]


class VAE(nn.Module):
    """A variational autoencoder; its encoder maps images in [-1, 1] to means and log-variances, `(b, z)` each."""

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def posterior(self, images: Images) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Return mean and log-variance of each image's posterior, in float32."""
        mean, log_variance = self.encoder(images)
        return mean.float(), log_variance.float()

    def forward(self, images: Float[Tensor, "b 3 h w"], noise: Float[Tensor, "b z"]) -> VAEOutput:
        """Encode images in [-1, 1], add standard normal noise or zeros, in units of the deviations, and decode."""
        mean, log_variance = self.posterior(images)
        if not mean.shape[1] == noise.shape[1] == self.decoder.latent_dim:
            raise ValueError(
                f"latents must be {self.decoder.latent_dim} wide for this decoder, got {mean.shape[1]} from the "
                f"encoder and noise of {noise.shape[1]}. Build the encoder for this latent_dim."
            )
        z = mean + torch.exp(0.5 * log_variance) * noise
        return VAEOutput(mean, log_variance, self.decoder(z))
