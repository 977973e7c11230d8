"""A denoiser: a network that knows the velocity of a flow from noise to images, and follows it."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, check_choice
from nacgen.functional.flow import integrate_flow
from nacgen.models.folder import check_memory
from nacgen.models.image_model import PretrainedImageModel
from nacgen.models.unet import SmallUNet
from nacgen.system.places import require_diffusers

ATTENTION_SIZE, HEAD_DIM, PATCH_SIZE = 16, 64, 2  # pixels; channels of a head; pixels of a token
LARGEST_TIME = 1_000  # as networks count it
MULTIPLES = {"small": 8, "unet": 64, "dit": HEAD_DIM}  # of channels, by network


def denoiser_channels(network: str, image_size: int) -> tuple[int, ...]:
    """Return the default channels of a network: levels of a U-Net, or the one width of a transformer.

    Those of `"unet"` are torchcfm's for CIFAR-10; `"small"` goes down to 4 px.
    """
    if network == "dit":
        return (384,)
    if network == "unet":
        return (128, 256, 256, 256)
    return (32, *(64 for _ in range(max(1, (image_size // 4).bit_length() - 1))))


class Denoiser(nn.Module, PretrainedImageModel):
    """A network that takes noisy images and a time and returns the velocity of the flow there.

    Args:
        image_size: Height and width in pixels.
        network: `"small"`: `nacgen.models.unet.SmallUNet`. `"unet"`: `UNet2DModel` of diffusers with attention at
            16 px. `"dit"`: its `DiTTransformer2DModel` over patches of 2 px, with heads of 64 channels.
        channels: Channels of the levels of a U-Net, each at half the size of the one before; for `"dit"` one
            number, the width.
        num_blocks: Blocks of a level of `"unet"`, or of the transformer. `"small"` has one a level.
        dropout: Fraction of the channels that training drops within blocks.

    Raises:
        ConfigurationError: The sizes do not fit together, or diffusers is needed and not installed.

    Example:
        >>> denoiser = Denoiser(image_size=16).eval()
        >>> denoiser.images(torch.randn(2, denoiser.latent_dim), num_steps=2).shape
        torch.Size([2, 3, 16, 16])
    """

    about = "The network of a flow model, which leads noise to images step by step."

    def __init__(
        self,
        image_size: int = 16,
        network: str = "small",
        channels: Sequence[int] = denoiser_channels("small", 16),
        num_blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("network", network, MULTIPLES)
        _check_sizes(network, image_size, channels, num_blocks, dropout)
        self.image_size, self.kind = image_size, network
        self.network = _network(network, image_size, tuple(channels), num_blocks, dropout)

    @property
    def latent_dim(self) -> int:
        """Length of the noise that becomes one image."""
        return 3 * self.image_size**2

    @property
    def alignment_layer(self) -> str:
        """Name of the layer that is aligned to an encoder: a U-Net's middle, a transformer's block at a third."""
        if self.kind == "dit":
            blocks: Any = self.network.transformer_blocks
            return f"network.transformer_blocks.{len(blocks) // 3}"
        return {"small": "network.after", "unet": "network.mid_block"}[self.kind]

    def forward(
        self, noisy: Float[Tensor, "b 3 h w"], time: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the velocity at noisy images; time goes from 0, images, to 1, noise."""
        timestep = LARGEST_TIME * time
        if self.kind == "small":
            velocity: Tensor = self.network(noisy, timestep)
            return velocity
        options: dict[str, Any] = {}
        if self.kind == "dit":
            options["class_labels"] = torch.zeros_like(time, dtype=torch.int64)
        velocity = self.network(noisy, timestep, return_dict=False, **options)[0]
        return velocity  # noqa: RET504  # which gives it a type

    @torch.no_grad()
    def images(self, z: Float[Tensor, "b z"], num_steps: int = 20) -> Float[Tensor, "b 3 h w"]:
        """Return the images in [-1, 1] that Heun's method reaches from noise; overshoots are cut off."""
        noise = rearrange(z, "b (c h w) -> b c h w", c=3, h=self.image_size)
        return integrate_flow(self, noise, num_steps).float().clamp(-1, 1)


def _network(
    kind: str, size: int, channels: tuple[int, ...], num_blocks: int, dropout: float
) -> nn.Module:
    if kind == "small":
        return SmallUNet(channels, dropout)
    require_diffusers(f"network {kind}")
    diffusers: Any = import_module("diffusers")
    network: Any
    if kind == "unet":
        stages = ["Attn" if size >> i == ATTENTION_SIZE else "" for i in range(len(channels))]
        network = diffusers.UNet2DModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            block_out_channels=channels,
            layers_per_block=num_blocks,
            down_block_types=tuple(f"{stage}DownBlock2D" for stage in stages),
            up_block_types=tuple(f"{stage}UpBlock2D" for stage in reversed(stages)),
            attention_head_dim=HEAD_DIM,
            dropout=dropout,
        )
    else:
        network = diffusers.DiTTransformer2DModel(
            num_attention_heads=channels[0] // HEAD_DIM,
            attention_head_dim=HEAD_DIM,
            in_channels=3,
            out_channels=3,
            num_layers=num_blocks,
            dropout=dropout,
            sample_size=size,
            patch_size=PATCH_SIZE,
            num_embeds_ada_norm=1,
        )
        for block in network.transformer_blocks:  # there is one class, which is never dropped
            block.norm1.emb.class_embedder.dropout_prob = 0.0
    return network  # type: ignore[no-any-return]


def _check_sizes(
    network: str, image_size: int, channels: Sequence[int], num_blocks: int, dropout: float
) -> None:
    multiple = MULTIPLES[network]
    if not channels or any(width < multiple or width % multiple for width in channels):
        raise ConfigurationError(
            f"channels of network {network} must be multiples of {multiple}, got {tuple(channels)}. Change "
            "--network.channels."
        )
    if network == "dit" and len(channels) > 1:
        raise ConfigurationError(
            f"network dit has one width, got channels {tuple(channels)}. Give one to --network.channels."
        )
    halvings = PATCH_SIZE if network == "dit" else 2 ** (len(channels) - 1)
    if image_size < 8 or image_size % halvings:
        raise ConfigurationError(
            f"image_size must be a multiple of {halvings} px, 8 or more, for network {network} with channels "
            f"{tuple(channels)}, got {image_size}. Change --data.image-size or --network.channels."
        )
    if num_blocks < 1 or not 0 <= dropout < 1:
        raise ConfigurationError(
            f"num_blocks must be one or more and dropout in [0, 1), got {num_blocks} and {dropout}."
        )
    check_memory(36 * max(channels) ** 2 * num_blocks, f"channels {tuple(channels)}")
