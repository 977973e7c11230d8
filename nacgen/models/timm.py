"""Any model of timm as a trunk; `pip install "nacgen[timm]"`."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import Backbone


class TimmBackbone(Backbone):
    """A model of timm that gives feature maps, under timm's own parameter names.

    Transformers of a fixed size take images of no other.

    Args:
        name: As `timm.create_model` takes it; freshly initialised, nothing is downloaded.

    Raises:
        ConfigurationError: timm is not installed, does not know the name, or the model gives no maps.
    """

    def __init__(self, name: str) -> None:
        if (
            ":" in name or "/" in name
        ):  # timm would read what it builds from the Hub or from a folder
            raise ConfigurationError(
                f"backbone timm:{name} must be the name of a model in timm's own list, not where one lies. See "
                "timm.list_models()."
            )
        try:
            # timm announces its optional backends by warnings about its own imports
            model: Any = _import_timm().create_model(name, pretrained=False, features_only=True)
        except (RuntimeError, AttributeError) as error:
            raise ConfigurationError(
                f"backbone timm:{name} must be a model of timm that gives feature maps, but: {error} "
                "See timm.list_models()."
            ) from error
        channels = model.feature_info.channels()
        names = ("stem", *(f"layer{i}" for i in range(1, len(channels))))
        super().__init__(
            dict(zip(names, channels, strict=True)), max(model.feature_info.reduction())
        )
        self.model = model
        self.is_channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        settings = model.pretrained_cfg
        self.fixed_size = settings["input_size"][-1] if settings.get("fixed_input_size") else None

    def stages(self) -> dict[str, list[nn.Module]]:
        """Refused: which modules make up a stage differs from model to model."""
        raise ConfigurationError(
            "a timm trunk can be pretrained and probed, but not transplanted into a discriminator: its "
            "stages are not known. Use a backbone of ours."
        )

    def convolution_norm_pairs(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Refused, as `stages`."""
        self.stages()
        yield from ()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Refused: timm initialises its models itself."""
        self.stages()

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Feature maps of every stage.

        Args:
            images: Normalised images.

        Returns:
            `{"stem": (b, c, h, w), "layer1": ..., ...}`, timm's maps in their order.

        Raises:
            ConfigurationError: The images are smaller than the total stride, or not of the fixed size.
        """
        self.check_size(images)
        maps = self.model(images)
        if self.is_channels_last:
            maps = [rearrange(x, "b h w c -> b c h w") for x in maps]
        return dict(zip(self.stage_channels, maps, strict=True))

    def check_size(self, images: Tensor) -> None:
        """Raise unless images have a size that the model takes.

        Args:
            images: `(b, 3, h, w)`.

        Raises:
            ConfigurationError: They are smaller than the total stride, or not of the fixed size.
        """
        super().check_size(images)
        size = self.fixed_size
        if size is not None and tuple(images.shape[-2:]) != (size, size):
            raise ConfigurationError(
                f"this model of timm takes images of {size}x{size} px only, got "
                f"{images.shape[-2]}x{images.shape[-1]}. Bring them to this size with --data.image-size and "
                "--views.size, or use a convolutional model."
            )

    def synchronized(self) -> "TimmBackbone":
        """With BatchNorm over all processes; timm's own norms hold an activation, which torch would drop."""
        layers: Any = import_module("timm.layers")
        self.model = layers.convert_sync_batchnorm(self.model)
        return self


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigurationError(
            'backbones named timm:<name> need timm, which is not installed. Run `pip install "nacgen[timm]"`.'
        ) from error
    module: ModuleType = timm
    return module
