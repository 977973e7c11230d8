"""A small image classifier whose features measure images independently of any encoder."""

from collections.abc import Sequence

from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.data.pixels import check_images
from nacgen.errors import ConfigurationError
from nacgen.models.folder import PretrainedModel, check_memory

NORM_GROUPS = 8

CARD = """---
library_name: nacgen
tags: [image-classification, image-feature-extraction]
---
# Image classifier: {model.num_classes} classes, {model.image_size}x{model.image_size} px

A small convolutional classifier whose {model.feature_dim} penultimate features measure generated images
by a Fréchet distance. It knows nothing of Neural Activation Coding.

```python
from nacgen.models.classifier import ImageClassifier

classifier = ImageClassifier.from_pretrained("path/to/this/folder")
classifier(images)           # images: float (b, 3, h, w) in [-1, 1] -> logits (b, {model.num_classes})
classifier.features(images)  # -> (b, {model.feature_dim})
```

{model.card_notes}
"""


class ConvolutionBlock(nn.Sequential):
    """A block of two 3x3 convolutions, the first with a stride, each with GroupNorm and SiLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.GroupNorm(NORM_GROUPS, out_channels),
            nn.SiLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.GroupNorm(NORM_GROUPS, out_channels),
            nn.SiLU(),
        )


class ImageClassifier(nn.Module, PretrainedModel):
    """A small classifier with smooth features: no batch statistics, no ReLU.

    The channels, at each resolution from full size on, are multiples of 8. Images of `image_size` px are those of
    the dataset it is trained on, whose name is recorded with scores in its features.
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: Sequence[int] = (32, 48, 64),
        feature_dim: int = 64,
        image_size: int = 16,
        dataset: str | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2 or feature_dim < 1:
            raise ConfigurationError(
                "num_classes must be two or more and feature_dim one or more, got "
                f"{num_classes} and {feature_dim}."
            )
        fits = all(width > 0 and width % NORM_GROUPS == 0 for width in channels)
        if not 0 < len(channels) <= 16 or not fits:
            raise ConfigurationError(
                f"channels must be one or more multiples of {NORM_GROUPS}, got {tuple(channels)}."
            )
        if image_size < (smallest := 2 ** (len(channels) - 1)):
            raise ConfigurationError(
                f"image_size must be at least {smallest} px, to be halved {len(channels) - 1} times, got "
                f"{image_size}. Give fewer channels."
            )
        widest = max(feature_dim * channels[-1], num_classes * feature_dim, 9 * max(channels) ** 2)
        what = f"{num_classes} classes, feature_dim {feature_dim}, channels {channels}"
        check_memory(widest, what)
        self.num_classes, self.feature_dim, self.image_size = num_classes, feature_dim, image_size
        self.dataset = dataset
        pairs = zip((3, *channels), channels, strict=False)
        self.trunk = nn.Sequential(
            *(ConvolutionBlock(a, b, stride=1 if i == 0 else 2) for i, (a, b) in enumerate(pairs))
        )
        self.penultimate = nn.Sequential(nn.Linear(channels[-1], feature_dim), nn.SiLU())
        self.head = nn.Linear(feature_dim, num_classes)
        self.card_notes = ""

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Return the outputs of the penultimate layer for images in [-1, 1], after its SiLU."""
        check_images(images, self)
        pooled = reduce(self.trunk(images), "b c h w -> b c", "mean")
        features: Tensor = self.penultimate(pooled)  # (b, c) -> (b, d)
        return features

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return the logits of the classes for images in [-1, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def model_card(self) -> str:
        """Return Markdown that describes the classifier, with `card_notes` at its end."""
        return CARD.format(model=self)
