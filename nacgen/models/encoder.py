"""The encoder that Neural Activation Coding trains: a trunk, a code head and a posterior head."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nacgen.data.pixels import check_images
from nacgen.errors import ConfigurationError, check_choice
from nacgen.functional.nac import check_flip_probability, marginal_posterior_logits
from nacgen.models.backbone import Backbone
from nacgen.models.backbones import Stem, build_backbone
from nacgen.models.folder import PretrainedModel, check_memory
from nacgen.models.own_network import OwnBackbone, own_network
from nacgen.system.own_parts import OWN, is_own
from nacgen.system.terminal import literal

Posterior = Literal["shared", "scaled", "separate"]
CodeNormalization = Literal["batch", "sphere", "sqrt_dim"]

CARD = """---
library_name: nacgen
tags: [neural-activation-coding, image-feature-extraction]
---
# NAC encoder: {model.backbone_name}, {model.code_dim} bits

An image encoder pretrained with Neural Activation Coding (Park, Lee, Kim & Blei, ICML 2021,
arXiv:2112.04014): its binary activation code survives a channel that flips each bit with probability
{model.flip_probability}.

```python
import nacgen

encoder = nacgen.NACEncoder.from_pretrained("path/to/this/folder")
encoder.features(images)  # images: float (b, 3, h, w) in [-1, 1] -> ({model.feature_dim},) each
encoder.codes(images)  # -> bool, {model.code_dim} bits each
```

Tensors under `backbone.` carry torchvision's names. Input is normalized inside the model.

{pretraining}{model.card_notes}
"""


class CodeHead(nn.Module):
    """A two-layer perceptron from features to one logit per bit of the code.

    Normalization `"batch"`: each logit is standardized over the batch and multiplied by one learned scale that
    starts at 1. `"sphere"`: the standardized logits of each image are also scaled to one length, and the learned
    scale starts at 1/2. `"sqrt_dim"`: logits are divided by the root of `code_dim`, as in the authors' code.
    """

    def __init__(self, feature_dim: int, code_dim: int, normalization: CodeNormalization) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, code_dim)
        )
        # Differs from the paper: without it the objective has a saddle at "all codes zero", which a
        # short run does not leave. Standardized logits start away from it.
        is_learned = normalization != "sqrt_dim"
        self.norm = nn.BatchNorm1d(code_dim, affine=False) if is_learned else None
        self.on_sphere = normalization == "sphere"
        scale = {"batch": 1.0, "sphere": 0.5, "sqrt_dim": code_dim**-0.5}[normalization]
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=is_learned)

    def forward(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Return the logits of the code's bits."""
        logits = self.before_sphere(features)
        if self.on_sphere:  # the signs, which are the bits, do not change
            logits = F.normalize(logits, dim=1) * logits.shape[1] ** 0.5
        return self.scale * logits

    def before_sphere(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Return logits of the same signs, before they are scaled to one length."""
        logits: Tensor = self.mlp(features)
        return logits if self.norm is None else self.norm(logits)


class NACEncoder(nn.Module, PretrainedModel):
    """An image encoder with a binary activation code.

    Args:
        backbone: Name of the trunk: `"tiny"` (0.3M parameters, for images of 16 to 32 px), `"resnet18"`,
            `"resnet34"`, `"resnet50"`, `"vgg16_bn"` or `"timm:<name>"`; or a module of your own, which gives
            features `(b, d)`, feature maps `(b, c, h, w)`, or a mapping or list of maps. It is held, not copied.
        stem: First layer of a ResNet. `"small"`: 3x3, no max-pooling; `"standard"`: ImageNet's 7x7.
        code_dim: Number of bits in a code, one or more.
        flip_probability: Probability, in (0, 1/2), that the noisy channel flips a bit.
        posterior: `"shared"`: posterior logits follow from the code logits and the channel, see
            `nacgen.functional.nac.marginal_posterior_logits`; `"scaled"`: these times a learned confidence, which
            keeps codes from shrinking where views differ; `"separate"`: a second head, as the authors have.
        code_normalization: Normalization of code and posterior logits, see `CodeHead`.
        mean: Mean of each color channel in [0, 1], subtracted from the input.
        std: Standard deviation of each color channel in [0, 1], by which the input is divided.
        pretraining: Cost of the weights, if known: `images` seen, `seconds`, `hardware` in words, and any other
            JSON values. It is saved with the encoder, and may be set when training has ended.
        stages: Names and channels of the maps of a trunk of your own, as they are saved. None: it is asked.

    Raises:
        ConfigurationError: A name is unknown, a number is out of range, or the cost is incomplete.

    Example:
        >>> encoder = nacgen.NACEncoder(backbone="tiny", code_dim=32).eval()
        >>> images = torch.rand(2, 3, 16, 16) * 2 - 1
        >>> encoder.features(images).shape, encoder.codes(images).shape
        (torch.Size([2, 64]), torch.Size([2, 32]))
    """

    mean: Tensor
    std: Tensor
    card = CARD

    def __init__(
        self,
        backbone: str | nn.Module = "tiny",
        stem: Stem = "small",
        code_dim: int = 128,
        flip_probability: float = 0.3,
        posterior: Posterior = "shared",
        code_normalization: CodeNormalization = "sphere",
        mean: tuple[float, ...] | list[float] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] | list[float] = (0.25, 0.25, 0.25),
        pretraining: Mapping[str, Any] | None = None,
        stages: Sequence[Sequence[str | int]] | None = None,
    ) -> None:
        super().__init__()
        trunk: Backbone | None = None
        if isinstance(backbone, nn.Module):
            trunk = OwnBackbone(backbone, stages)
            backbone = f"{OWN}{type(backbone).__qualname__}"
        elif is_own(backbone):
            raise ConfigurationError(
                f"it has a backbone of your own, {backbone}, which no file holds. Hand it over: "
                "nacgen.NACEncoder.from_pretrained(folder, backbone=my_module)."
            )
        if code_dim < 1:
            raise ConfigurationError(f"code_dim must be one bit or more, got {code_dim}.")
        try:
            check_flip_probability(flip_probability)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        check_choice("posterior", posterior, get_args(Posterior))
        check_choice("code_normalization", code_normalization, get_args(CodeNormalization))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigurationError(
                f"mean and std must have three channels and std be positive, got {mean} and {std}."
            )
        self.backbone_name, self.code_dim = backbone, code_dim
        self.flip_probability = flip_probability
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
        self.backbone = build_backbone(backbone, stem) if trunk is None else trunk
        if trunk is not None:
            self.options["stages"] = [list(item) for item in trunk.stage_channels.items()]
        self.feature_dim = self.backbone.feature_dim
        numbers = self.feature_dim * code_dim
        check_memory(numbers, f"code_dim {code_dim} and {self.feature_dim} features")
        head = (self.feature_dim, code_dim, code_normalization)
        self.code_head = CodeHead(*head)
        self.posterior_scale = nn.Parameter(torch.tensor(1.0)) if posterior == "scaled" else None
        self.posterior_head = CodeHead(*head) if posterior == "separate" else None
        self.pretraining = pretraining
        self.card_notes = ""
        self.run: Any = None  # that trained it, see `nacgen.pretrain`

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a trunk of the user's own is no part of the folder
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        backbone: Any = None,
    ) -> Self:
        """Load an encoder from a folder or the Hub, as `PretrainedModel.from_pretrained` does.

        `backbone` is the trunk of an encoder that was saved with one of your own: a module, which is copied, a
        function or class that makes it, or `"package.module:function"`.

        Example:
            >>> encoder = nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
            >>> encoder.backbone_name, encoder.code_dim
            ('tiny', 128)
        """
        given = {} if backbone is None else {"backbone": own_network("backbone", backbone)}
        return cls._from_folder(str(pretrained_model_name_or_path), revision, given)

    def given_arguments(self) -> dict[str, Any]:
        """Return a trunk of the user's own, which no file can hold; empty for a built-in one."""
        return {"backbone": self.backbone.network} if isinstance(self.backbone, OwnBackbone) else {}

    @property
    def pretraining(self) -> dict[str, Any] | None:
        """Cost of the weights: images seen, seconds and hardware; None where it is not known."""
        return self._pretraining

    @pretraining.setter
    def pretraining(self, cost: Mapping[str, Any] | None) -> None:
        self._pretraining = None if cost is None else _complete_cost(cost)

    def configuration(self) -> dict[str, Any]:
        """Return the constructor's arguments; the cost of the weights is among them if it is known."""
        known = {} if self.pretraining is None else {"pretraining": self.pretraining}
        return self.options | known

    def normalize(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalize images in [-1, 1] as the backbone expects them; others, such as uint8, are a `DataError`."""
        return normalize_input(images, self)

    def feature_maps(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b ..."]]:
        """Return feature maps `(b, c, h, w)` of images in [-1, 1] by stage: `"stem"`, `"layer1"` and so on.

        Images that are too small for the backbone are a `ConfigurationError`.

        Example:
            >>> maps = nacgen.NACEncoder().feature_maps(torch.zeros(2, 3, 16, 16))
            >>> {stage: tuple(x.shape[1:]) for stage, x in maps.items()}
            {'stem': (16, 16, 16), 'layer1': (16, 16, 16), 'layer2': (32, 8, 8), 'layer3': (64, 4, 4)}
        """
        maps: dict[str, Tensor] = self.backbone(self.normalize(images))
        return maps

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Return features of images in [-1, 1]: the last feature map, pooled over pixels.

        They are zero or more after a ReLU; trunks of timm give any real numbers.

        Example:
            >>> nacgen.NACEncoder().features(torch.zeros(2, 3, 16, 16)).shape
            torch.Size([2, 64])
        """
        last = list(self.feature_maps(images).values())[-1]
        return self.backbone.pool(last)

    def code_logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return the logits whose signs are the activation code of images in [-1, 1]."""
        logits: Tensor = self.code_head(self.features(images))
        return logits

    def piecewise_linear_logits(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return logits of the same signs made by ReLUs and affine maps only, to count linear regions."""
        return self.code_head.before_sphere(self.features(images))

    def codes(self, images: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b k"]:
        """Return the binary activation code of images in [-1, 1], with `sign(a(x)) = +1` as True.

        Call `eval()` first: in training mode codes depend on the batch. A logit that is NaN is a `ValueError`.

        Example:
            >>> codes = nacgen.NACEncoder(code_dim=32).eval().codes(torch.zeros(2, 3, 16, 16))
            >>> codes.shape, codes.dtype
            (torch.Size([2, 32]), torch.bool)
        """
        logits = self.code_logits(images)
        if logits.isnan().any():
            raise ValueError(
                f"code logits must be numbers, but {int(logits.isnan().sum())} of {logits.numel()} are NaN. "
                "Check that the images are finite and that the encoder's training did not diverge."
            )
        return logits >= 0

    def forward(
        self, images: Float[Tensor, "b 3 h w"], detach: bool = False
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Return code logits and posterior logits of images in [-1, 1], the inputs of the objective.

        `detach` stops the gradient of the posterior logits before the code logits or features they come from.
        """
        return self.logits_of_features(self.features(images), detach)

    def logits_of_features(
        self, features: Float[Tensor, "b d"], detach: bool = False
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
        """Return code logits and posterior logits of features, as `forward` does."""
        code_logits = self.code_head(features)
        if self.posterior_head is not None:
            return code_logits, self.posterior_head(features.detach() if detach else features)
        logits = code_logits.detach() if detach else code_logits
        posterior_logits = marginal_posterior_logits(logits, self.flip_probability)
        if self.posterior_scale is not None:
            posterior_logits = self.posterior_scale * posterior_logits
        return code_logits, posterior_logits

    def model_card(self) -> str:
        """Return Markdown that describes the encoder, with `card_notes` at its end."""
        cost = "Pretraining: {images:,} images, {seconds:,.0f} s on {hardware}.\n\n"
        known = ""
        if self.pretraining is not None:
            hardware = literal(self.pretraining["hardware"])
            known = cost.format(**{**self.pretraining, "hardware": hardware})
        return self.card.format(model=self, pretraining=known)


def _complete_cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the cost of a pretraining if it names images, seconds and hardware."""
    if not isinstance(cost, Mapping):
        raise ConfigurationError(
            f"pretraining must be a mapping or None, got a {type(cost).__name__}."
        )
    numbers = (cost.get("images"), cost.get("seconds"))
    are_numbers = all(isinstance(number, int | float) and number > 0 for number in numbers)
    if not (are_numbers and isinstance(cost.get("hardware"), str) and cost["hardware"]):
        raise ConfigurationError(
            f"pretraining must hold images and seconds above 0 and the hardware in words, got "
            f"{dict(cost)}. Give all three, or None where they are not known."
        )
    return dict(cost)


def normalize_input(images: Tensor, owner: Any) -> Tensor:
    """Normalize images `(b, 3, h, w)` in [-1, 1] by the owner's means and deviations `(3, 1, 1)` for [0, 1].

    Not folded into the first convolution, whose zero padding would be another color. The dtype is the owner's.
    """
    check_images(images, owner)
    normalized: Tensor = (images * 0.5 + 0.5 - owner.mean) / owner.std
    dtype: torch.dtype = owner.mean.dtype
    return normalized if normalized.dtype == dtype else normalized.to(dtype)
