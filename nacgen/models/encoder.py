"""The encoder that Neural Activation Coding trains: a trunk, a code head and a posterior head."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.functional.nac import check_flip_probability, marginal_posterior_logits
from nacgen.models.backbones import Stem, build_backbone
from nacgen.models.folder import PretrainedModel

Posterior = Literal["shared", "scaled", "separate"]
CodeNormalization = Literal["batch", "sphere", "sqrt_dim"]

CARD = """---
library_name: nacgen
license: apache-2.0
tags: [neural-activation-coding, image-feature-extraction]
---
# NAC encoder: {backbone}, {code_dim} bits

An image encoder pretrained with Neural Activation Coding (Park, Lee, Kim & Blei, ICML 2021,
arXiv:2112.04014): its binary activation code survives a channel that flips each bit with probability
{flip_probability}.

```python
import nacgen

encoder = nacgen.NACEncoder.from_pretrained("path/to/this/folder")
encoder.features(images)  # images: float (b, 3, h, w) in [-1, 1] -> ({feature_dim},) each
encoder.codes(images)  # -> bool, {code_dim} bits each
```

Tensors under `backbone.` carry torchvision's names. Input is normalised inside the model.

{pretraining}{notes}
"""


class CodeHead(nn.Module):
    """Two-layer perceptron from features to one logit a bit.

    Args:
        feature_dim: Width of the features.
        code_dim: Bits in a code.
        normalization: `"batch"`: each logit is standardised over the batch and multiplied by one learned
            scale that starts at 1; `"sphere"`: the standardised logits of each image are also brought to one
            length, and the scale starts at 1/2; `"sqrt_dim"`: logits are divided by the root of `code_dim`,
            the authors' form.
    """

    def __init__(self, feature_dim: int, code_dim: int, normalization: CodeNormalization) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, code_dim)
        )
        # Differs from the paper: without it the objective has a saddle at "all codes zero", which a
        # short run does not leave. Standardised logits start away from it.
        is_learned = normalization != "sqrt_dim"
        self.norm = nn.BatchNorm1d(code_dim, affine=False) if is_learned else None
        self.on_sphere = normalization == "sphere"
        scale = {"batch": 1.0, "sphere": 0.5, "sqrt_dim": code_dim**-0.5}[normalization]
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=is_learned)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Logits of the code's bits."""
        logits = self.before_sphere(features)
        if self.on_sphere:  # an image's bits, the signs, stay what they are
            logits = F.normalize(logits, dim=1) * logits.shape[1] ** 0.5
        return self.scale * logits

    def before_sphere(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Logits not yet brought to one length and scaled: of the same signs."""
        logits: Tensor = self.mlp(features)
        return logits if self.norm is None else self.norm(logits)


class NACEncoder(nn.Module, PretrainedModel):
    """An image encoder with a binary activation code.

    Args:
        backbone: As `nacgen.models.backbones.build_backbone` takes it: `"tiny"` (0.3M parameters, for images of
            16 to 32 px), `"resnet18"`, `"vgg16_bn"`, `"timm:<name>"`, ...
        stem: Of ResNets. `"small"`: 3x3, no max-pooling; `"standard"`: ImageNet's.
        code_dim: Bits in a code, one or more.
        flip_probability: Of the channel the encoder is trained for, in (0, 1/2).
        posterior: `"shared"`: what the channel makes of the code logits, see
            `nacgen.functional.nac.marginal_posterior_logits`; `"scaled"`: that, times a learned confidence,
            so that codes need not shrink where views differ; `"separate"`: a second head on the features,
            the authors' form.
        code_normalization: Of code and posterior logits, see `CodeHead`.
        mean: Per channel in [0, 1], subtracted from the input.
        std: Per channel in [0, 1], divided by.
        pretraining: What the weights cost, if known: `images` seen, `seconds`, the `hardware` in words, and any
            other JSON values. It is saved with the encoder, and may be set once training has ended.

    Raises:
        ConfigurationError: A name is unknown, a number out of range, or the cost incomplete.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str = "tiny",
        stem: Stem = "small",
        code_dim: int = 128,
        flip_probability: float = 0.3,
        posterior: Posterior = "shared",
        code_normalization: CodeNormalization = "batch",
        mean: tuple[float, ...] | list[float] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] | list[float] = (0.25, 0.25, 0.25),
        pretraining: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if code_dim < 1:
            raise ConfigurationError(f"code_dim must be one bit or more, got {code_dim}.")
        try:
            check_flip_probability(flip_probability)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        if posterior not in ("shared", "scaled", "separate"):
            raise ConfigurationError(
                f"posterior must be shared, scaled or separate, got {posterior!r}."
            )
        if code_normalization not in get_args(CodeNormalization):
            raise ConfigurationError(
                f"code_normalization must be one of {', '.join(get_args(CodeNormalization))}, got "
                f"{code_normalization!r}."
            )
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigurationError(
                f"mean and std must have three channels and std be positive, got {mean} and {std}."
            )
        self.backbone_name, self.code_dim, self.flip_probability = (
            backbone,
            code_dim,
            flip_probability,
        )
        self.options: dict[str, Any] = {
            "backbone": backbone,
            "stem": stem,
            "code_dim": code_dim,
            "flip_probability": flip_probability,
            "posterior": posterior,
            "code_normalization": code_normalization,
            "mean": tuple(mean),
            "std": tuple(std),
        }
        self.register_buffer("mean", rearrange(torch.tensor(mean), "c -> c 1 1"))
        self.register_buffer("std", rearrange(torch.tensor(std), "c -> c 1 1"))
        self.backbone = build_backbone(backbone, stem)
        self.feature_dim = self.backbone.feature_dim
        self.code_head = CodeHead(self.feature_dim, code_dim, code_normalization)
        self.posterior_scale = nn.Parameter(torch.tensor(1.0)) if posterior == "scaled" else None
        self.posterior_head: CodeHead | None = None
        if posterior == "separate":
            self.posterior_head = CodeHead(self.feature_dim, code_dim, code_normalization)
        self.pretraining = pretraining
        self.card_notes = ""

    @property
    def pretraining(self) -> dict[str, Any] | None:
        """What the weights cost: images seen, seconds, hardware; None where that is not known."""
        return self._pretraining

    @pretraining.setter
    def pretraining(self, cost: Mapping[str, Any] | None) -> None:
        self._pretraining = None if cost is None else check_cost(cost)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write the encoder's folder, its cost included; see `PretrainedModel.save_pretrained`."""
        known = {} if self.pretraining is None else {"pretraining": self.pretraining}
        kwargs["config"] = kwargs.get("config") or self.options | known
        return super().save_pretrained(save_directory, **kwargs)

    def normalize(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [-1, 1] to what the backbone was trained on."""
        return normalize_input(images, self.mean, self.std)

    def feature_maps(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Feature maps of every stage.

        Args:
            images: In [-1, 1].

        Returns:
            `{"stem": (b, c, h, w), "layer1": ..., ...}`.

        Raises:
            ConfigurationError: The images are too small for the backbone.
        """
        maps: dict[str, Tensor] = self.backbone(self.normalize(images))
        return maps

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features: the last stage, pooled over pixels.

        Args:
            images: In [-1, 1].

        Returns:
            Zero or more, being outputs of a ReLU; of a model of timm any real numbers.
        """
        last = list(self.feature_maps(images).values())[-1]
        return self.backbone.pool(last)

    def code_logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits whose signs are the activation code.

        Args:
            images: In [-1, 1].

        Returns:
            Any real numbers.
        """
        logits: Tensor = self.code_head(self.features(images))
        return logits

    def piecewise_linear_logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of the signs of `code_logits`, by ReLUs and affine maps alone: its linear regions can be counted.

        Args:
            images: In [-1, 1].

        Returns:
            Any real numbers.
        """
        return self.code_head.before_sphere(self.features(images))

    def codes(self, images: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b k"]:
        """The binary activation code, `sign(a(x)) = +1` as True.

        Args:
            images: In [-1, 1].

        Returns:
            Bits; call `eval()` first, in training mode they depend on the batch.

        Raises:
            ValueError: A logit is NaN, which has no sign.
        """
        logits = self.code_logits(images)
        if logits.isnan().any():
            raise ValueError(
                f"code logits must be numbers, but {int(logits.isnan().sum())} of {logits.numel()} are NaN. Was "
                "the encoder trained to the end? Are the images finite?"
            )
        return logits >= 0

    def forward(
        self, images: Float[Tensor, "b 3 h w"], detach: bool = False
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Code logits and posterior logits, what the objective needs.

        Args:
            images: In [-1, 1].
            detach: Keep the gradient of the posterior logits from what the posterior is predicted from.

        Returns:
            `(code_logits, posterior_logits)`.
        """
        features = self.features(images)
        code_logits = self.code_head(features)
        if self.posterior_head is None:
            logits = code_logits.detach() if detach else code_logits
            posterior_logits = marginal_posterior_logits(logits, self.flip_probability)
            if self.posterior_scale is not None:
                posterior_logits = self.posterior_scale * posterior_logits
            return code_logits, posterior_logits
        return code_logits, self.posterior_head(features.detach() if detach else features)

    def model_card(self) -> str:
        """Markdown that describes the encoder, with `card_notes` at its end."""
        cost = ""
        if self.pretraining is not None:
            cost = "Pretraining: {images:,} images, {seconds:,.0f} s on {hardware}.\n\n".format(
                **self.pretraining
            )
        return CARD.format(
            backbone=self.backbone_name,
            code_dim=self.code_dim,
            flip_probability=self.flip_probability,
            feature_dim=self.feature_dim,
            pretraining=cost,
            notes=self.card_notes,
        )


def check_cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    """What a pretraining cost, if it is said in full.

    Args:
        cost: `images` and `seconds`, numbers above zero, `hardware`, some words, and any other JSON values.

    Returns:
        A copy.

    Raises:
        ConfigurationError: One of the three is missing or no such value.
    """
    numbers = (cost.get("images"), cost.get("seconds"))
    are_numbers = all(isinstance(number, int | float) and number > 0 for number in numbers)
    if not (are_numbers and isinstance(cost.get("hardware"), str) and cost["hardware"]):
        raise ConfigurationError(
            "pretraining must hold images and seconds above 0 and the hardware in words, got "
            f"{dict(cost)}. Give all three, or None where they are not known."
        )
    return dict(cost)


def normalize_input(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bring images in [-1, 1] to zero mean and unit variance, given statistics in [0, 1].

    Not folded into the first convolution, whose zero padding would then stand for another colour.

    Args:
        images: `(b, 3, h, w)` in [-1, 1].
        mean: `(3, 1, 1)` in [0, 1].
        std: `(3, 1, 1)`.

    Returns:
        `(b, 3, h, w)`.
    """
    return (images * 0.5 + 0.5 - mean) / std
