"""Convolutional trunks with torchvision's parameter names, and with other widths and stems.

torchvision fixes the widths at 64 to 512 and the stem at ImageNet's, so it cannot build them. Its `resnet18`,
`resnet34`, `resnet50` and `vgg16_bn` load these weights and give the same features.

Source:
    He et al. 2016, arXiv:1512.03385 (the bottleneck's stride is on its 3x3 convolution, as in
    torchvision); Simonyan & Zisserman 2015, arXiv:1409.1556.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, check_choice
from nacgen.models.backbone import Backbone

Stem = Literal["small", "standard"]
EXPANSION = 4  # of a bottleneck's channels


@dataclass(frozen=True)
class ResNetShape:
    """Numbers of blocks and output channels of each stage of a residual network."""

    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    bottleneck: bool = False  # three convolutions a block, in the middle a quarter of the channels


RESNETS = {
    "tiny": ResNetShape(blocks=(1, 1, 1), channels=(16, 32, 64)),
    "resnet18": ResNetShape(blocks=(2, 2, 2, 2), channels=(64, 128, 256, 512)),
    "resnet34": ResNetShape(blocks=(3, 4, 6, 3), channels=(64, 128, 256, 512)),
    "resnet50": ResNetShape((3, 4, 6, 3), (256, 512, 1024, 2048), bottleneck=True),
}
VGG_CONVOLUTIONS = (2, 2, 3, 3, 3)  # of each stage
VGG_CHANNELS = (64, 128, 256, 512, 512)
BACKBONES = (*RESNETS, "vgg16_bn")


class BasicBlock(nn.Module):
    """A block of two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Apply the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class Bottleneck(nn.Module):
    """A block of a 3x3 convolution between two of 1x1, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Apply the block."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)).add_(shortcut), inplace=True)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def _named(channels: Sequence[int]) -> dict[str, int]:
    """Return the channels of stages by our names."""
    return {f"layer{i}" if i else "stem": width for i, width in enumerate(channels)}


class ResNet(Backbone):
    """The trunk of one of `RESNETS`, without pooling and classifier.

    The stem is `"small"`, a 3x3 convolution, or `"standard"`, ImageNet's 7x7 with stride 2 and max-pooling.
    """

    def __init__(self, name: str = "tiny", stem: Stem = "small") -> None:
        check_choice("stem", stem, get_args(Stem))
        shape = RESNETS[name]
        width = 64 if shape.bottleneck else shape.channels[0]
        stride = 2 ** (len(shape.blocks) - 1) * (4 if stem == "standard" else 1)
        super().__init__(_named((width, *shape.channels)), stride)
        self.stem = stem
        kernel, stem_stride = (3, 1) if stem == "small" else (7, 2)
        self.conv1 = nn.Conv2d(3, width, kernel, stem_stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        block = Bottleneck if shape.bottleneck else BasicBlock
        for i, (blocks, channels) in enumerate(zip(shape.blocks, shape.channels, strict=True), 1):
            first = block(width, channels, stride=1 if i == 1 else 2)
            rest = [block(channels, channels, stride=1) for _ in range(blocks - 1)]
            self.add_module(f"layer{i}", nn.Sequential(first, *rest))
            width = channels
        self.reset_parameters()

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage, stem first."""
        layers = {stage: [getattr(self, stage)] for stage in list(self.stage_channels)[1:]}
        return {"stem": [self.conv1, self.bn1]} | layers

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Return each stage's feature map of normalized images, after its last ReLU, before any max-pooling."""
        self.check_size(images)
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        maps = {"stem": x}
        if self.stem == "standard":
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in list(self.stage_channels)[1:]:
            x = getattr(self, stage)(x)
            maps[stage] = x
        return maps


class VGG(Backbone):
    """The convolutions of VGG-16 with BatchNorm: five stages, max-pooling between and after them."""

    def __init__(self) -> None:
        super().__init__(_named(VGG_CHANNELS), 2 ** len(VGG_CHANNELS))
        layers: list[nn.Module] = []
        self._ends: list[int] = []  # position of each stage's max-pooling
        width = 3
        for convolutions, channels in zip(VGG_CONVOLUTIONS, VGG_CHANNELS, strict=True):
            for _ in range(convolutions):
                layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels)]
                layers.append(nn.ReLU(inplace=True))
                width = channels
            self._ends.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.reset_parameters()

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage, stem first, without the max-pooling after it."""
        starts, layers = [0, *(end + 1 for end in self._ends)], list(self.features)
        places = zip(self.stage_channels, starts, self._ends, strict=False)
        return {name: layers[start:end] for name, start, end in places}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Return each stage's feature map of normalized images, before its max-pooling."""
        self.check_size(images)
        maps: dict[str, Tensor] = {}
        x = images
        for stage, modules in self.stages().items():
            if maps:
                x = F.max_pool2d(x, 2)
            for module in modules:
                x = module(x)
            maps[stage] = x
        return maps

    def pool(self, last_map: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d"]:
        """Return features from the last feature map: max-pooled once more, then averaged."""
        return reduce(F.max_pool2d(last_map, 2), "b d h w -> b d", "mean")


class WholeBackbone(Backbone):
    """A trunk that is frozen or trained as a whole, since the modules of its stages are not known."""

    has_stages = False
    kind: str  # in messages

    def stages(self) -> dict[str, list[nn.Module]]:
        """Raise a `ConfigurationError`."""
        raise ConfigurationError(
            f"{self.kind} is not transplanted into a discriminator unless it is frozen (mode 'frozen'), nor into "
            f"a VAE's encoder: its stages are not known. Pretrain one of {', '.join(BACKBONES)}."
        )

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Raise a `ConfigurationError`, for not all layers can be initialized again."""
        raise ConfigurationError(
            f"{self.kind} has no random or shuffled control: its initialization cannot be repeated. Use an "
            f"encoder that was built and not pretrained, or pretrain one of {', '.join(BACKBONES)}."
        )


class TimmBackbone(WholeBackbone):
    """A model in `timm.list_models()` that gives feature maps, freshly initialized, under timm's own names."""

    kind = "a timm trunk"

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
        stages = _named(model.feature_info.channels())
        super().__init__(stages, max(model.feature_info.reduction()))
        self.model = model
        self.is_channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        settings = model.pretrained_cfg
        self.fixed_size = settings["input_size"][-1] if settings.get("fixed_input_size") else None

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


def build_backbone(name: str, stem: Stem = "small") -> Backbone:
    """Build a trunk by name, initialized from torch's global random generator.

    The name is one of `BACKBONES`, or `"timm:<name>"` for any model of timm that gives feature maps.
    """
    if name in RESNETS:
        return ResNet(name, stem)
    if stem != "small":
        raise ConfigurationError(
            f"only ResNets have a choice of stems, got stem {stem!r} for {name}. Leave it at small."
        )
    if name == "vgg16_bn":
        return VGG()
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"))
    raise ConfigurationError(
        f"backbone must be one of {', '.join(BACKBONES)} or timm:<name>, got {name!r}."
    )
