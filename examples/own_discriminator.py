"""A discriminator of your own, similar to DCGAN's, that starts from an encoder's convolutions.

python examples/own_discriminator.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream
from nacgen.models.gan import Generator


class Discriminator(nn.Module):
    """A stack of strided convolutions with leaky ReLUs, and one linear map; for images of 16 px."""

    def __init__(self) -> None:
        super().__init__()
        widths, strides = (3, 16, 16, 16, 32, 32, 64, 64), (1, 1, 1, 2, 1, 2, 1)
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1), nn.LeakyReLU(0.2)]
        self.convolutions, self.head = nn.Sequential(*layers), nn.Linear(64 * 4 * 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(b,)`."""
        return self.head(self.convolutions(images).flatten(1)).squeeze(1)


def main(steps: int = 200, batch_size: int = 32) -> list[tuple[float, float]]:
    """Train with the hinge loss; return each step's mean logits of real and of generated images."""
    encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
    generator, discriminator = Generator(16, latent_dim=64), Discriminator()
    # The names differ, so match layers of equal shape in order; BatchNorm is folded into them.
    part = nacgen.transplant(encoder, into=discriminator, match="order", image_size=16)
    print(part.report.to_markdown())
    optimizer_d = torch.optim.Adam(part.param_groups(lr=4e-4), betas=(0.5, 0.99))
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=4e-4, betas=(0.5, 0.99))
    stream, logits = ImageStream(load_dataset("digits"), batch_size, seed=0), []
    for step in range(steps):
        real = encoder.normalize(to_float(stream.batch(step * batch_size).images))
        fake = encoder.normalize(generator(torch.randn(batch_size, 64)))
        logits_real, logits_fake = discriminator(real), discriminator(fake.detach())
        optimizer_d.zero_grad()
        (relu(1 - logits_real).mean() + relu(1 + logits_fake).mean()).backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        (-discriminator(fake).mean()).backward()
        optimizer_g.step()
        logits.append((logits_real.mean().item(), logits_fake.mean().item()))
    return logits


if __name__ == "__main__":
    print("real {:.2f}, generated {:.2f}".format(*main()[-1]))
