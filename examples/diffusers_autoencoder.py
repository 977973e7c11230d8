"""A diffusers autoencoder, such as latent diffusion has, trained with an encoder's perceptual loss.

pip install "nacgen[flow]"
python examples/diffusers_autoencoder.py
"""

import torch
from diffusers import AutoencoderKL

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream


def make_autoencoder() -> AutoencoderKL:
    """Make a small autoencoder: images of 16 px to latents of 4 channels at 8 px."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(16, 32),
        norm_num_groups=8,
        latent_channels=4,
        sample_size=16,
    )


def main(steps: int = 200, weight: float = 0.5, batch_size: int = 32) -> list[tuple[float, float]]:
    """Train on digits; return each step's error of pixels and perceptual distance."""
    encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
    distance = nacgen.transplant(encoder, into="perceptual").module
    autoencoder, rows = make_autoencoder(), []
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=2e-3)
    stream = ImageStream(load_dataset("digits"), batch_size, seed=0)
    for step in range(steps):
        images = to_float(stream.batch(step * batch_size).images)
        posterior = autoencoder.encode(images).latent_dist
        reconstruction = autoencoder.decode(posterior.sample()).sample
        pixels = (reconstruction - images).abs().mean()
        perceptual = distance(reconstruction, images).mean()
        loss = pixels + weight * perceptual + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rows.append((pixels.item(), perceptual.item()))
    return rows


if __name__ == "__main__":
    print("pixels {:.3f}, perceptual {:.3f}".format(*main()[-1]))
