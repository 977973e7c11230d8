"""Alignment of a denoiser's hidden states to an encoder's feature maps, as a loss beside its own.

Source:
    Yu et al. 2025, arXiv:2410.06940 (REPA): the loss and the projector `"mlp"`. Singh et al. 2025,
    arXiv:2512.10794 (iREPA): the projector `"conv"` and standardization over space.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, DataError, check_choice
from nacgen.functional.alignment import alignment_loss, resize_maps, standardize_over_space
from nacgen.models.encoder import NACEncoder
from nacgen.system.precision import plain_float32
from nacgen.system.randomness import seeded
from nacgen.transplant.hidden_state import HiddenState, find_layer, run_once
from nacgen.transplant.prepare import PreparedTrunk, Source, unwrap
from nacgen.transplant.report import Transplant
from nacgen.transplant.trunk import Trunk, check_image_size

Projector = Literal["conv", "mlp"]
MLP_CHANNELS = 2048  # between the layers of REPA's projector


class Alignment(nn.Module):
    """A loss between a model's hidden state and the frozen features of the clean images.

    The projector is all that is trained and saved. The trunk is no submodule: it moves to other devices and
    precisions with the alignment, but `parameters()`, `state_dict()` and `train()` do not see it. A deep copy has
    no hook on a model, and says so when it is called.

    Args:
        trunk: Frozen trunk of the encoder.
        hidden: Hidden state of the model's layer.
        shape: Channels, height and width of the hidden state's map.
        image_size: Height and width of the clean images in pixels.
        stage: Name of the trunk's stage whose map is the target.
        projector: `"conv"` or `"mlp"`.
        standardize: Whether to standardize the target over space.
    """

    def __init__(
        self,
        trunk: Trunk,
        hidden: HiddenState,
        shape: tuple[int, int, int],
        image_size: int,
        stage: str,
        projector: Projector = "conv",
        standardize: bool = True,
    ) -> None:
        super().__init__()
        self._unregistered = (trunk, hidden)
        self.image_size, self.stage, self.standardize = image_size, stage, standardize
        channels, self.grid = shape[0], shape[1:]
        target_channels = trunk.backbone.stage_channels[stage]
        if projector == "conv":
            self.projector = nn.Sequential(nn.Conv2d(channels, target_channels, 3, padding=1))
        else:
            self.projector = nn.Sequential(  # the same perceptron at every position
                nn.Conv2d(channels, MLP_CHANNELS, 1),
                nn.SiLU(),
                nn.Conv2d(MLP_CHANNELS, MLP_CHANNELS, 1),
                nn.SiLU(),
                nn.Conv2d(MLP_CHANNELS, target_channels, 1),
            )

    @property
    def trunk(self) -> Trunk:
        """The frozen trunk."""
        return self._unregistered[0]

    @property
    def hidden(self) -> HiddenState:
        """The hidden state of the model, with the hook that reads it."""
        return self._unregistered[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the trunk, too."""
        self.trunk._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-any-return, no-untyped-call]

    def target(
        self, images: Float[Tensor, "b 3 h w"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c i j"]:
        """Return what hidden states are aligned to, the maps of clean images in [-1, 1], without gradient.

        `grid` is their height and width; None for those of the hidden state when the alignment was built.
        """
        check_image_size(images, self.image_size)
        with torch.no_grad():
            maps = self.trunk(images)[self.stage].float()
            maps = resize_maps(maps, *(grid or self.grid))
            return standardize_over_space(maps) if self.standardize else maps

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Compute the loss of each clean image in [-1, 1], from 0 to 2, after the model ran on noisy ones.

        Gradients reach the model and the projector. Each run of the model serves one call.
        """
        hidden = self.hidden.take()
        if len(hidden) != len(images):
            raise DataError(
                f"images must be those that the model ran on last, {len(hidden)} of them, got {len(images)}. Pass "
                "the clean images of the same batch, and run the model on no other before."
            )
        target = self.target(images, (hidden.shape[-2], hidden.shape[-1]))
        projected = self.projector(hidden.to(next(self.parameters()).dtype))
        return alignment_loss(projected, target)

    def remove_hook(self) -> None:
        """Take the hook off the model, for example once the loss has weight 0."""
        self.hidden.remove()


def into_alignment(
    encoder: NACEncoder,
    *,
    model: nn.Module,
    layer: str,
    image_size: int,
    stage: str | None = None,
    projector: Projector = "conv",
    standardize: bool = True,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    source: Source = "encoder",
    calibration_images: Float[Tensor, "b 3 h w"] | None = None,
    seed: int = 0,
) -> Transplant[Alignment]:
    """Align a layer of a denoiser to an encoder: `module(images)` is a loss `(b,)` after the denoiser ran.

    `images` are the clean ones that the denoiser's noisy input was made of, in [-1, 1], after any flip. A forward
    hook reads the layer's output; `module.remove_hook()` takes it away. With several processes, prepare the module
    as you prepare the denoiser, for its projector trains.

    Args:
        encoder: Pretrained encoder; it is not changed.
        model: Denoiser, wrapped by accelerate or torch.compile or not; it keeps its weights and its mode.
        layer: Name of a submodule that gives a map `(b, c, h, w)` or a square number of tokens `(b, n, c)`, alone
            or first in a tuple, for example `"mid_block"` or `"transformer_blocks.7"`.
        image_size: Height and width of the clean images in pixels.
        stage: Name of the encoder's stage whose map is the target; None for the last. It is resized to the
            layer's map, never the other way round.
        projector: `"conv"`, a 3x3 convolution, or `"mlp"`, three linear layers 2048 wide at each position.
        standardize: Whether to bring each channel of the target to mean 0 and deviation 1 over space.
        example_inputs: Arguments of the model's `forward`, one tensor, a tuple, or a mapping of keywords, to
            call it once with and learn the layer's shape. None for one image `(1, 3, image_size, image_size)` and
            one time `(1,)`.
        source: As in `into_discriminator`.
        calibration_images: As in `into_discriminator`.
        seed: Seed of the projector and of the controls' weights.

    Returns:
        The loss on the model's device, with its parameter groups and a report.

    Raises:
        ConfigurationError: If a choice is unknown, the layer does not exist or gives no map, the encoder's map has
            one position only, or the model cannot be called.
        CheckpointError: If the trunk does not reproduce the encoder.

    Example:
        >>> from nacgen.models.encoder import NACEncoder
        >>> denoiser = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ConvTranspose2d(8, 3, 2, 2))
        >>> noisy, images = torch.randn(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)
        >>> alignment = into_alignment(
        ...     NACEncoder(), model=denoiser, layer="0", image_size=16, example_inputs=noisy
        ... ).module
        >>> velocity = denoiser(noisy)
        >>> alignment(images).shape
        torch.Size([2])
    """
    own, _ = unwrap(model, "model")
    if not isinstance(own, nn.Module):
        raise ConfigurationError(f"model must be a torch.nn.Module, got a {type(own).__name__}.")
    check_choice("projector", projector, get_args(Projector))
    images = calibration_images
    prepared = PreparedTrunk(encoder, "frozen", None, image_size, source, images, "fold", seed)
    trunk = prepared.trunk()
    stage = list(trunk.backbone.stage_channels)[-1] if stage is None else stage
    check_choice("stage", stage, trunk.backbone.stage_channels)
    size = trunk.select(image_size, [stage])[stage][1]
    if size < 2:
        raise ConfigurationError(
            f"the encoder's map must have two positions or more, but stage {stage} of images of {image_size} px "
            "has one. Choose an earlier stage, or an encoder with the small stem."
        )
    hidden = HiddenState(find_layer(own, layer), layer)
    try:
        run_once(own, image_size, example_inputs)
        if hidden.value is None:
            raise ConfigurationError(
                f"layer must be called when the model runs, but {layer!r} was not. Name a layer within it."
            )
        with torch.no_grad():
            first = hidden.take()[:1]
        with plain_float32("cpu"), seeded(seed, "projector"):
            shape = tuple(first.shape[1:])
            module = Alignment(trunk, hidden, shape, image_size, stage, projector, standardize)
        hidden.value = first.float().cpu()  # to count operations with
        part = prepared.finish(_WithTrunk(module), "alignment", prepared.probe[:1])
    except Exception:
        hidden.remove()
        raise
    return Transplant(module.to(first.device), part.report, part.stages, (hidden,))


class _WithTrunk(nn.Module):
    """An alignment whose trunk is a submodule, for the report."""

    def __init__(self, alignment: Alignment) -> None:
        super().__init__()
        self.trunk, self.projector = alignment.trunk, alignment.projector
        self._alignment = (alignment,)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the loss."""
        loss: Tensor = self._alignment[0](images)
        return loss
