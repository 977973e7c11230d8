"""An autoencoder with the interface of diffusers' `AutoencoderKL`, trained with an encoder's perceptual loss.

python examples/perceptual_autoencoder.py
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream


class Autoencoder(nn.Module):
    """A small autoencoder with `AutoencoderKL`'s methods; a real one can take its place."""

    def __init__(self) -> None:
        super().__init__()
        down, up = nn.Conv2d, nn.ConvTranspose2d
        self.encoder = nn.Sequential(down(3, 64, 4, 2, 1), nn.SiLU(), down(64, 8, 4, 2, 1))
        self.decoder = nn.Sequential(up(4, 64, 4, 2, 1), nn.SiLU(), up(64, 3, 4, 2, 1))

    def encode(self, images: Tensor) -> SimpleNamespace:
        """Compute the posterior of the latents, `(b, c, h / 4, w / 4)`."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return SimpleNamespace(latent_dist=Normal(mean, (0.5 * log_variance).exp()))

    def decode(self, z: Tensor) -> SimpleNamespace:
        """Compute images in about [-1, 1]."""
        return SimpleNamespace(sample=self.decoder(z))


def main(steps: int = 200, weight: float = 0.5, batch_size: int = 32) -> list[tuple[float, float]]:
    """Train on digits; return each step's error of pixels and perceptual distance."""
    encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
    distance = nacgen.transplant(encoder, into="perceptual").module
    autoencoder, rows = Autoencoder(), []
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=2e-3)
    stream = ImageStream(load_dataset("digits"), batch_size, seed=0)
    for step in range(steps):
        images = to_float(stream.batch(step * batch_size).images)
        posterior = autoencoder.encode(images).latent_dist
        reconstruction = autoencoder.decode(posterior.rsample()).sample
        pixels = (reconstruction - images).abs().mean()
        perceptual = distance(reconstruction, images).mean()
        kl = kl_divergence(posterior, Normal(0.0, 1.0)).mean()
        optimizer.zero_grad()
        (pixels + weight * perceptual + 1e-4 * kl).backward()
        optimizer.step()
        rows.append((pixels.item(), perceptual.item()))
    return rows


if __name__ == "__main__":
    print("pixels {:.3f}, perceptual {:.3f}".format(*main()[-1]))
