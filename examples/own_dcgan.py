"""A DCGAN of your own in nacgen's trainer: its discriminator starts from an encoder, or from its random control.

python examples/own_dcgan.py
"""

from torch import Tensor, nn

import nacgen


def make_generator() -> nn.Sequential:
    """Make a generator: latents `(b, 64, 1, 1)` to images of 16 px in [-1, 1]."""
    layers: list[nn.Module] = []
    for i, (inside, outside) in enumerate([(64, 96), (96, 64), (64, 32)]):
        step = (1, 0) if i == 0 else (2, 1)  # 1 -> 4, then doubled
        layers += [nn.ConvTranspose2d(inside, outside, 4, *step)]
        layers += [nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(32, 3, 3, padding=1), nn.Tanh())


class Discriminator(nn.Module):
    """A stack of strided convolutions with leaky ReLUs, and one linear map; for images of 16 px in [-1, 1]."""

    def __init__(self, encoder: nacgen.NACEncoder) -> None:
        super().__init__()
        self.register_buffer("mean", encoder.mean.clone())
        self.register_buffer("std", encoder.std.clone())
        widths, strides = (3, 16, 16, 16, 32, 32, 64, 64), (1, 1, 1, 2, 1, 2, 1)
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1), nn.LeakyReLU(0.2)]
        self.convolutions, self.head = nn.Sequential(*layers), nn.Linear(64 * 4 * 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(b,)` of images, normalized as `encoder.normalize` does."""
        normalized = (images * 0.5 + 0.5 - self.mean) / self.std
        return self.head(self.convolutions(normalized).flatten(1)).squeeze(1)


def start_from(encoder: nacgen.NACEncoder) -> Discriminator:
    """Make a discriminator whose convolutions are the encoder's, matched in order by their shapes."""
    into = Discriminator(encoder)
    return nacgen.transplant(encoder, into=into, match="order", image_size=16).module


def main(folder: str = "runs/own-dcgan", **options: object) -> dict[str, float]:
    """Train both; return the score of each, lower is better."""
    encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
    parts = {"generator": make_generator, "discriminator": start_from, "encoder": encoder}
    scores = {}
    for init in ("nac", "random"):
        run = nacgen.train_gan(init=init, run_dir=f"{folder}/{init}", **parts, **options)
        scores[init] = run.scores["fd_digits_classifier"]
    return scores


if __name__ == "__main__":
    print(main())
