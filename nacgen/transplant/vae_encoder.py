"""The encoder of a variational autoencoder on a pretrained trunk."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.models.folder import check_memory
from nacgen.system.precision import plain_float32
from nacgen.system.randomness import seeded
from nacgen.transplant.heads import RGBBranch
from nacgen.transplant.prepare import Mode, PreparedTrunk, Source
from nacgen.transplant.report import Transplant
from nacgen.transplant.trunk import BatchNormUse, Trunk, check_image_size

HEAD_SCALE = 0.1  # of the usual weights: posteriors start near the prior, the KL near zero


class VAEEncoder(nn.Module):
    """A diagonal Gaussian posterior whose mean and log-variance are linear in feature maps.

    The maps are averaged down to the size of the smallest one, so positions in the image stay distinct. The
    arguments besides the trunk are those of `into_vae_encoder`.

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix C.2.
    """

    def __init__(
        self,
        trunk: Trunk,
        image_size: int,
        latent_dim: int,
        return_nodes: Sequence[str] | None = None,
        rgb_branch: bool = False,
    ) -> None:
        super().__init__()
        if not hasattr(latent_dim, "__index__") or latent_dim < 1:
            raise ConfigurationError(f"latent_dim must be one or more, got {latent_dim!r}.")
        self.trunk, self.image_size, self.latent_dim = trunk, image_size, latent_dim
        shapes = trunk.select(image_size, return_nodes)
        self.return_nodes, self.map_size = tuple(shapes), min(size for _, size in shapes.values())
        channels = sum(width for width, _ in shapes.values())
        self.rgb_branch = RGBBranch() if rgb_branch else None
        if self.rgb_branch is not None:
            channels += self.rgb_branch.out_channels
        check_memory(2 * latent_dim * channels * self.map_size**2, f"a latent_dim of {latent_dim}")
        self.head = nn.Linear(channels * self.map_size**2, 2 * latent_dim)
        nn.init.normal_(self.head.weight, std=HEAD_SCALE * self.head.in_features**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Compute the posterior of images in [-1, 1], `(mean, log_variance)`; the logarithm is natural."""
        check_image_size(images, self.image_size)
        all_maps = self.trunk(images)
        maps = [all_maps[node] for node in self.return_nodes]
        if self.rgb_branch is not None:
            maps.append(self.rgb_branch(images))
        pooled = torch.cat([F.adaptive_avg_pool2d(x, self.map_size) for x in maps], dim=1)
        mean, log_variance = self.head(rearrange(pooled, "b c h w -> b (c h w)")).chunk(2, dim=1)
        return mean, log_variance


def into_vae_encoder(
    encoder: NACEncoder,
    *,
    image_size: int,
    latent_dim: int,
    mode: Mode = "init",
    return_nodes: Sequence[str] | None = None,
    rgb_branch: bool | None = None,
    source: Source = "encoder",
    calibration_images: Float[Tensor, "b 3 h w"] | None = None,
    batch_norm: BatchNormUse = "fold",
    frozen_stages: int | None = None,
    seed: int = 0,
) -> Transplant[VAEEncoder]:
    """Build a VAE's encoder on a trunk; `module(images)` gives mean and log-variance, `(b, z)` each.

    Args:
        encoder: Pretrained encoder; it is not changed.
        image_size: Height and width of the images in pixels.
        latent_dim: Length of `z`.
        mode: `"init"`, `"partial"` or `"frozen"`, as in `into_discriminator`.
        return_nodes: Names of the stages to read; None for the last, or for all of a frozen trunk.
        rgb_branch: Whether to read the pixels too; None reads them beside a frozen trunk.
        source: As in `into_discriminator`.
        calibration_images: As in `into_discriminator`.
        batch_norm: As in `into_discriminator`.
        frozen_stages: As in `into_discriminator`.
        seed: Seed of all new weights and of the controls.

    Returns:
        The VAE's encoder on the encoder's device, with its parameter groups and a report.

    Raises:
        ConfigurationError: If a choice is unknown, choices exclude each other, or the images are too small.
        CheckpointError: If the trunk does not reproduce the encoder.

    Example:
        >>> from nacgen.models.encoder import NACEncoder
        >>> part = into_vae_encoder(NACEncoder(), image_size=16, latent_dim=8)
        >>> mean, log_variance = part.module(torch.zeros(2, 3, 16, 16))
        >>> mean.shape
        torch.Size([2, 8])
    """
    prepared = PreparedTrunk(
        encoder, mode, frozen_stages, image_size, source, calibration_images, batch_norm, seed
    )
    return_nodes, has_branch = prepared.inputs_of_heads(return_nodes, rgb_branch)
    with plain_float32("cpu"), seeded(seed, "heads"):
        module = VAEEncoder(prepared.trunk(), image_size, latent_dim, return_nodes, has_branch)
    return prepared.finish(module, "vae_encoder", prepared.probe[:1])
