"""Likelihoods of images, parameterized by a decoder's outputs."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.functional.likelihoods import (
    SMALLEST_VARIANCE,
    expected_squared_error,
    gaussian_log_likelihood,
    logistic_mixture_channels,
    logistic_mixture_log_likelihood,
    logistic_mixture_mean,
)


class Likelihood(nn.Module, ABC):
    """A distribution of images with 256 values per pixel; a network gives `num_outputs` parameters per pixel."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    @abstractmethod
    def forward(
        self, images: Float[Tensor, "b 3 h w"], outputs: Float[Tensor, "b p h w"]
    ) -> Float[Tensor, " b"]:
        """Compute the log-likelihood of images in [-1, 1] given a decoder's outputs, in nats."""

    @abstractmethod
    def mean(self, outputs: Float[Tensor, "b p h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the mean images, in [-1, 1]."""

    def refit(
        self,
        images: Float[Tensor, "b 3 h w"],
        outputs: Float[Tensor, "b p h w"],
        average: Callable[[Tensor], Tensor],
    ) -> None:
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

    def forward(
        self, images: Float[Tensor, "b 3 h w"], outputs: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Compute the log-likelihood of images in nats."""
        return gaussian_log_likelihood(images, outputs.float(), self.variance)

    def mean(self, outputs: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the outputs, clamped to [-1, 1]."""
        return outputs.float().clamp(-1, 1)

    @torch.no_grad()
    def refit(
        self,
        images: Float[Tensor, "b 3 h w"],
        outputs: Float[Tensor, "b 3 h w"],
        average: Callable[[Tensor], Tensor],
    ) -> None:
        """Move the variance towards its optimum for these images."""
        error = expected_squared_error(images, outputs.float(), self.variance).mean()
        self.variance.copy_(average(error).clamp(min=SMALLEST_VARIANCE))


class LogisticMixtureLikelihood(Likelihood):
    """Mixtures of ten logistics per pixel, where green depends on red, and blue on both (arXiv:1701.05517)."""

    def __init__(self) -> None:
        super().__init__(num_outputs=logistic_mixture_channels(num_mixtures=10))

    def forward(
        self, images: Float[Tensor, "b 3 h w"], outputs: Float[Tensor, "b p h w"]
    ) -> Float[Tensor, " b"]:
        """Compute the log-likelihood of images in nats."""
        return logistic_mixture_log_likelihood(images, outputs.float())

    def mean(self, outputs: Float[Tensor, "b p h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the mean of the mixture, with each component clamped to [-1, 1]."""
        return logistic_mixture_mean(outputs.float())


LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "gaussian": GaussianLikelihood,
    "logistic_mixture": LogisticMixtureLikelihood,
}
