"""The decoder of a variational autoencoder, and encoder and decoder as one module."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.folder import PretrainedModel
from nacgen.models.gan import GeneratorBlock, check_upsampling
from nacgen.models.likelihoods import LIKELIHOODS


class Decoder(nn.Module, PretrainedModel):
    """From latents to a likelihood of images: residual blocks with GroupNorm and SiLU, from 4x4 upwards.

    Args:
        image_size: Height and width in pixels, 4 times a power of two, 8 or more.
        latent_dim: Length of `z`.
        channels: At 4x4, then after each doubling; multiples of 8.
        likelihood: `"gaussian"`, of optimal variance, or `"logistic_mixture"`, of ten components.

    Raises:
        ConfigurationError: Size and number of channels do not fit, channels are no multiples of 8, or the
            likelihood is unknown.
    """

    def __init__(
        self,
        image_size: int = 16,
        latent_dim: int = 32,
        channels: Sequence[int] = (96, 64, 32),
        likelihood: str = "gaussian",
    ) -> None:
        super().__init__()
        check_upsampling(image_size, latent_dim, channels, "--decoder.channels")
        if likelihood not in LIKELIHOODS:
            raise ConfigurationError(
                f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}."
            )
        self.latent_dim, self.image_size = latent_dim, image_size
        self.likelihood = LIKELIHOODS[likelihood]()
        self.first = nn.Linear(latent_dim, channels[0] * 16)
        self.blocks = nn.Sequential(*(GeneratorBlock(a, b) for a, b in pairwise(channels)))
        self.norm = nn.GroupNorm(8, channels[-1])
        self.to_outputs = nn.Conv2d(channels[-1], self.likelihood.num_outputs, 3, padding=1)

    def forward(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b p h w"]:
        """What the likelihood is made of.

        Args:
            z: Latents.

        Returns:
            Outputs, `likelihood.num_outputs` numbers a pixel.

        Raises:
            ValueError: The latents have another width.
        """
        if z.shape[1] != self.latent_dim:
            raise ValueError(
                f"z must have {self.latent_dim} columns for this decoder, got {z.shape[1]}. Build the "
                f"encoder with latent_dim={self.latent_dim}."
            )
        x = rearrange(self.first(z), "b (c h w) -> b c h w", h=4, w=4)
        outputs: Tensor = self.to_outputs(F.silu(self.norm(self.blocks(x))))
        return outputs

    def images(self, z: Float[Tensor, "b z"]) -> Float[Tensor, "b 3 h w"]:
        """The images to expect of latents, in [-1, 1], without the likelihood's noise.

        Args:
            z: Latents.

        Returns:
            Images.
        """
        return self.likelihood.mean(self(z))


class VAEOutput(NamedTuple):
    """What a variational autoencoder makes of images.

    Args:
        mean: Of each image's posterior.
        log_variance: Of each image's posterior.
        outputs: Of the decoder, for one sample of the posterior.
    """

    mean: Float[Tensor, "b z"]
    log_variance: Float[Tensor, "b z"]
    outputs: Float[Tensor, "b p h w"]


class VAE(nn.Module):
    """An encoder of posteriors and a decoder.

    Args:
        encoder: Images `(b, 3, h, w)` in [-1, 1] to means and log-variances, `(b, z)` each.
        decoder: Of latents as wide.
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def posterior(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Mean and log-variance of each image's posterior, in float32."""
        mean, log_variance = self.encoder(images)
        return mean.float(), log_variance.float()

    def forward(self, images: Float[Tensor, "b 3 h w"], noise: Float[Tensor, "b z"]) -> VAEOutput:
        """Encode, draw one sample each, decode.

        Args:
            images: In [-1, 1].
            noise: Standard normal; zeros decode the posterior means.

        Returns:
            Posteriors and the decoder's outputs.

        Raises:
            ValueError: Encoder, noise and decoder do not agree on the width of the latents.
        """
        mean, log_variance = self.posterior(images)
        if not mean.shape[1] == noise.shape[1] == self.decoder.latent_dim:
            raise ValueError(
                f"latents must be {self.decoder.latent_dim} wide for this decoder, got {mean.shape[1]} from the "
                f"encoder and noise of {noise.shape[1]}. Build the encoder with "
                f"latent_dim={self.decoder.latent_dim}."
            )
        z = mean + torch.exp(0.5 * log_variance) * noise
        return VAEOutput(mean, log_variance, self.decoder(z))
