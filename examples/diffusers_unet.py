"""A diffusers U-Net trained as a flow model, its middle block aligned to an encoder's features (REPA).

pip install "nacgen[flow]"
python examples/diffusers_unet.py
"""

import torch
from diffusers import UNet2DModel

import nacgen
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream


def make_denoiser() -> UNet2DModel:
    """Make a small U-Net for images of 16 px; any module that takes noisy images and a time will do."""
    return UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def main(steps: int = 200, weight: float = 0.5, batch_size: int = 32) -> list[tuple[float, float]]:
    """Train on digits; return each step's error of the velocity and its alignment loss."""
    encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
    denoiser, rows = make_denoiser(), []
    part = nacgen.transplant(
        encoder, into="alignment", model=denoiser, layer="mid_block", image_size=16
    )
    alignment = part.module  # its projector is trained along with the denoiser
    optimizer = torch.optim.AdamW([*denoiser.parameters(), *alignment.parameters()], lr=1e-3)
    stream = ImageStream(load_dataset("digits"), batch_size, seed=0)
    for step in range(steps):
        images = to_float(stream.batch(step * batch_size).images)
        noise, time = torch.randn_like(images), torch.rand(batch_size)
        mix = time[:, None, None, None]
        velocity = denoiser((1 - mix) * images + mix * noise, 1000 * time).sample
        flow_loss = (velocity - (noise - images)).square().mean()
        alignment_loss = alignment(images).mean()
        optimizer.zero_grad()
        (flow_loss + weight * alignment_loss).backward()
        optimizer.step()
        rows.append((flow_loss.item(), alignment_loss.item()))
    alignment.remove_hook()  # the denoiser is a plain U-Net again
    return rows


if __name__ == "__main__":
    print("velocity {:.3f}, alignment {:.3f}".format(*main()[-1]))
