"""Parts of a user's own, as a package of theirs would hold them."""

from typing import Any

import torch
from torch import Tensor, nn

from nacgen.metrics.extractors.base import CallableExtractor


class DCGAN(nn.Sequential):
    """A generator as in PyTorch's tutorial: latents (b, z, 1, 1)."""

    def __init__(self, latent_dim: int = 64) -> None:
        super().__init__(
            nn.ConvTranspose2d(latent_dim, 16, 4),
            nn.BatchNorm2d(16),
            nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )


class Critic(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 4, 2, 1),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(8, 16, 4, 2, 1),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(16, 1, 4),
        )


class Dropping(Critic):
    def __init__(self) -> None:
        super().__init__()
        self.insert(2, nn.Dropout(0.3))


class Maps(nn.Module):
    """A backbone of two maps, with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images)
        return {"shallow": first, "deep": self.second(first)}


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.mean((2, 3)))


def mean_colors(images: Tensor) -> Tensor:
    return images.float().mean((2, 3)) / 255


def colors(**_: Any) -> CallableExtractor:
    return CallableExtractor(mean_colors, name="colors", feature_dim=3, version="1")


def noisy(images: Tensor) -> Tensor:
    return images + 0.05 * torch.randn_like(images)


given: list[Any] = []


def critic_of(encoder: Any = None, image_size: int = 0) -> nn.Module:
    """A discriminator that is told the encoder of its arm."""
    given[:] = [encoder, image_size]
    return Critic()
