"""Conversion of images between floats in [-1, 1], as models use them, and uint8, as files and scores use them."""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nacgen.errors import DataError, NonFiniteError

QUANTIZATION = "uint8, round half up"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 64  # value of an image in [-1, 1] under any augmentation of its colors


def to_uint8(images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Quantize images in [-1, 1] to whole numbers from 0 to 255, rounding half up.

    Raises:
        NonFiniteError: A pixel is NaN.
        DataError: A pixel lies outside of [-1, 1].

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)).flatten()
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    outside = images[~(images.abs() <= 1)]  # NaN included
    if outside.isnan().any():
        raise NonFiniteError(
            f"images must be numbers, got NaN in {int(outside.isnan().sum())} of {images.numel()} "
            "pixels. Look at the weights of the model that made them."
        )
    if len(outside) > 0:
        raise DataError(
            f"images must lie in [-1, 1], got values from {images.min():.4g} to "
            f"{images.max():.4g}. Scale them, or clamp them where the model is meant to overshoot."
        )
    return (127.5 * images.float() + 128).to(torch.uint8)  # 127.5 (x + 1) + 1/2, cut off


def to_float(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Convert images from 0 to 255 into floats in [-1, 1].

    Example:
        >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)).flatten()
        tensor([-1.0000, -0.6000,  1.0000])
    """
    return images.float() / 127.5 - 1


def check_batch(images: Tensor, name: str = "images") -> None:
    """Raise a `DataError` unless this is a dense tensor of floats in the shape of color images, `(b, 3, h, w)`."""
    is_tensor = isinstance(images, Tensor)
    is_dense = is_tensor and images.layout == torch.strided and not images.is_nested
    if not is_dense or images.dtype not in FLOATS:
        got = f"{images.dtype}" if is_dense else f"a {type(images).__name__}"
        got += " that is not dense" if is_tensor and not is_dense else ""
        raise DataError(
            f"{name} must be a tensor of floats in [-1, 1], got {got}. Bring a tensor of uint8 "
            "there with nacgen.data.pixels.to_float."
        )
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(
            f"{name} must be a batch of color images (b, 3, h, w), got {tuple(images.shape)}. Add the axis of the "
            "batch with images[None], put channels first, or repeat gray ones three times."
        )


def check_images(images: Tensor, owner: nn.Module) -> None:
    """Raise a `DataError` unless a network's input may be a batch of color images in [-1, 1], `(b, 3, h, w)`.

    Augmented images leave [-1, 1] a little; values from 0 to 255 are far out. NaN is left to the loss in training.
    There, on an accelerator, only the first batch that `owner` gets is looked at: looking waits for the device.
    """
    check_batch(images)
    if torch.compiler.is_compiling() or not has_values(images):
        return
    if owner.training and images.device.type != "cpu" and "_has_seen_images" in owner.__dict__:
        return
    owner.__dict__["_has_seen_images"] = True
    low, high = torch.stack(torch.aminmax(images.detach())).tolist()
    largest = 8 if low >= 0 else LARGEST  # augmentation brightens no whole batch that much
    if max(-low, high) > largest or not (owner.training or math.isfinite(low + high)):
        raise DataError(
            f"images must be finite numbers in [-1, 1], got {low:.4g} to {high:.4g}. Bring values from 0 to 255 "
            "there with images / 127.5 - 1."
        )


def has_values(images: Tensor) -> bool:
    """Tell a tensor of numbers from an empty one and those that stand for others while a program is traced."""
    kind = type(images)
    stands_for_others = kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
    stands_for_others |= getattr(kind, "stands_for_others", False)
    if stands_for_others or images.is_meta or images.numel() == 0:
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(images) or torch._C._get_tracing_state():
        return False
    return not (images.is_cuda and torch.cuda.is_current_stream_capturing())
