"""Models of timm as backbones; they need `pip install "nacgen[timm]"`."""

from importlib import import_module
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import Backbone


class TimmBackbone(Backbone):
    """A model in `timm.list_models()` that gives feature maps, freshly initialized, under timm's own names."""

    def __init__(self, name: str) -> None:
        # timm would build models from the Hub or from a folder, too
        if ":" in name or "/" in name:
            raise ConfigurationError(
                f"backbone timm:{name} must be in timm.list_models(), and not the place of a model."
            )
        try:
            timm: Any = import_module("timm")
            model = timm.create_model(name, pretrained=False, features_only=True)
        except ImportError as error:
            raise ConfigurationError(
                "backbones named timm:<name> need timm, which is not installed. Run `pip install "
                '"nacgen[timm]"`.'
            ) from error
        except (RuntimeError, AttributeError) as error:
            raise ConfigurationError(
                f"backbone timm:{name} must be a model of timm.list_models() with feature maps, but: {error}"
            ) from error
        channels = model.feature_info.channels()
        names = ("stem", *(f"layer{i}" for i in range(1, len(channels))))
        stages = dict(zip(names, channels, strict=True))
        super().__init__(stages, max(model.feature_info.reduction()))
        self.model = model
        self.is_channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        settings = model.pretrained_cfg
        self.fixed_size = settings["input_size"][-1] if settings.get("fixed_input_size") else None

    def stages(self) -> dict[str, list[nn.Module]]:
        """Raise an error: the modules of a stage differ from model to model."""
        raise ConfigurationError(
            "a timm trunk can be pretrained and probed, but not transplanted into a discriminator: its "
            "stages are not known. Use a backbone of ours."
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Return timm's feature maps of normalized images in order, under our names: `"stem"`, `"layer1"`, …."""
        self.check_size(images)
        maps = self.model(images)
        if self.is_channels_last:
            maps = [rearrange(x, "b h w c -> b c h w") for x in maps]
        return dict(zip(self.stage_channels, maps, strict=True))

    def check_size(self, images: Tensor) -> None:
        """Raise `ConfigurationError` unless images have a size that the model takes."""
        super().check_size(images)
        size = self.fixed_size
        if size is not None and tuple(images.shape[-2:]) != (size, size):
            raise ConfigurationError(
                f"this model of timm takes images of {size}x{size} px only, got "
                f"{images.shape[-2]}x{images.shape[-1]}. Bring them to this size with --data.image-size and "
                "--views.size, or use a convolutional model."
            )

    def synchronized(self) -> "TimmBackbone":
        """Convert BatchNorm to statistics over all processes, with timm's function, which keeps activations."""
        layers: Any = import_module("timm.layers")
        self.model = layers.convert_sync_batchnorm(self.model)
        return self
