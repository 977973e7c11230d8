"""The encoder of a variational autoencoder on a pretrained trunk."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.transplant.heads import RGBBranch
from nacgen.transplant.trunk import Trunk

HEAD_SCALE = 0.1  # of the usual weights: posteriors start near the prior, the KL near zero


class VAEEncoder(nn.Module):
    """Mean and log-variance of a diagonal Gaussian posterior, linear in the tapped feature maps.

    The maps are averaged down to the size of the smallest, so places in the image stay told apart.

    Args:
        trunk: Gives the feature maps.
        image_size: Height and width in pixels.
        latent_dim: Length of `z`.
        return_nodes: Stages to read; None for the last.
        rgb_branch: Whether to read the pixels too, through a small trainable network.

    Raises:
        ConfigurationError: The images are too small for the trunk, a tap does not exist, or there is no latent.

    Source:
        Kingma & Welling 2014, arXiv:1312.6114, appendix C.2.
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
        if latent_dim < 1:
            raise ConfigurationError(f"latent_dim must be one or more, got {latent_dim}.")
        self.trunk, self.latent_dim = trunk, latent_dim
        shapes = trunk.map_shapes(image_size, return_nodes)
        trunk.leave_out_above(shapes)
        self.return_nodes, self.map_size = tuple(shapes), min(size for _, size in shapes.values())
        channels = sum(width for width, _ in shapes.values())
        self.rgb_branch = RGBBranch() if rgb_branch else None
        if self.rgb_branch is not None:
            channels += self.rgb_branch.out_channels
        self.head = nn.Linear(channels * self.map_size**2, 2 * latent_dim)
        nn.init.normal_(self.head.weight, std=HEAD_SCALE * self.head.in_features**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Posterior of each image.

        Args:
            images: In [-1, 1].

        Returns:
            `(mean, log_variance)`, both any real numbers, the latter a natural logarithm.
        """
        all_maps = self.trunk(images)
        maps = [all_maps[node] for node in self.return_nodes]
        if self.rgb_branch is not None:
            maps.append(self.rgb_branch(images))
        maps = [F.adaptive_avg_pool2d(x, self.map_size) for x in maps]
        mean, log_variance = self.head(
            rearrange(torch.cat(maps, dim=1), "b c h w -> b (c h w)")
        ).chunk(2, dim=1)
        return mean, log_variance
