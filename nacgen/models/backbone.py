"""The interface of a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError


class Backbone(nn.Module, ABC):
    """A convolutional trunk without classifier, as encoders and transplants use it.

    `stage_channels` are those of each stage's map, `"stem"` first; the last map is `total_stride` times smaller.
    `has_stages` is False where the modules of a stage are not known: such a trunk is transplanted frozen only.
    """

    has_stages = True

    def __init__(self, stage_channels: dict[str, int], total_stride: int) -> None:
        super().__init__()
        self.stage_channels, self.total_stride = stage_channels, total_stride

    @property
    def feature_dim(self) -> int:
        """Width of the pooled features."""
        return list(self.stage_channels.values())[-1]

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize as torchvision: He initialization (fan-out) of convolutions, ones and zeros for BatchNorm."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    @abstractmethod
    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage, stem first."""

    def convolution_norm_pairs(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Yield each convolution and its BatchNorm as (owner, convolution's name, norm's name)."""
        for owner in self.modules():
            for name, child in owner.named_children():
                if isinstance(child, nn.Conv2d):
                    norm = str(int(name) + 1) if name.isdigit() else name.replace("conv", "bn")
                    yield owner, name, norm

    def pool(self, last_map: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d"]:
        """Return features from the last feature map: its mean over pixels."""
        # Unlike those of `mean`, its gradients are in the map's memory format.
        return F.avg_pool2d(last_map, last_map.shape[-2:]).flatten(1)

    def synchronized(self) -> "Backbone":
        """Return the trunk with BatchNorm over the images of all processes."""
        trunk: Backbone = nn.SyncBatchNorm.convert_sync_batchnorm(self)
        return trunk

    def check_size(self, images: Tensor) -> None:
        """Raise a `ConfigurationError` if images `(b, 3, h, w)` are smaller than the total stride."""
        if min(images.shape[-2:]) < self.total_stride:
            raise ConfigurationError(
                f"images must be at least {self.total_stride} px high and wide for this encoder, got "
                f"{images.shape[-2]}x{images.shape[-1]}. Use larger images, fewer stages or the small stem."
            )
