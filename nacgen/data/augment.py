"""Batched augmentation in plain torch, on the device of the images.

Parameters are drawn on the CPU for the global batch, and each process takes its rows. So an augmented image
depends on (seed, purpose, position) only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch
from nacgen.errors import ConfigurationError, DataError
from nacgen.system.randomness import generator

Augmentation = Callable[[Tensor], Tensor]
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in torchvision's rgb_to_grayscale
MAX_SIZE = 4_096  # pixels of a view's side
RANGES = {  # largest value of some fields of a policy, and SimCLR's
    "jitter": (1, 0.4),
    "saturation": (1, 0.4),
    "jitter_probability": (1, 0.8),
    "grayscale_probability": (1, 0.2),
    "hue": (0.5, 0.1),
}


@dataclass(frozen=True)
class ViewPolicy:
    """The distribution of random views of an image for self-supervised pretraining."""

    crop_scale: tuple[float, float] = (0.2, 1.0)  # fractions of the area that a crop keeps
    crop_ratio: float = 4 / 3  # largest aspect ratio of a crop; the smallest is its inverse
    flip: bool = True  # mirror half of the images
    jitter: float = 0.4  # brightness and contrast are multiplied by 1 - jitter to 1 + jitter
    saturation: float = 0.4  # likewise
    jitter_probability: float = 0.8  # fraction of images whose colors change
    grayscale_probability: float = 0.2  # fraction of images that lose their color
    hue: float = 0.0  # largest shift in turns of the color circle, where colors change
    size: int | None = None  # height and width of a view in pixels; None keeps those of the images
    function: Augmentation | None = None  # of the user's own, in place of all the others

    def __post_init__(self) -> None:
        smallest, largest = self.crop_scale
        if not (0 < smallest <= largest <= 1 and self.crop_ratio >= 1):
            raise ConfigurationError(
                "crops must keep a fraction above 0, at most 1, of an image, at an aspect ratio of 1 or more, got "
                f"{self.crop_scale} and ratio {self.crop_ratio}. SimCLR's are 0.08 to 1 and 4/3."
            )
        for name, (largest, usual) in RANGES.items():
            if not 0 <= (value := getattr(self, name)) <= largest:
                raise ConfigurationError(
                    f"{name} must lie between 0 and {largest}, got {value}. SimCLR's is {usual}."
                )
        if self.size is not None and not 1 <= self.size <= MAX_SIZE:
            raise ConfigurationError(f"size must be 1 to {MAX_SIZE:,} pixels, got {self.size}.")


def random_view(batch: Batch, policy: ViewPolicy, purpose: str) -> Float[Tensor, "b 3 h w"]:
    """Draw one random view, in [-1, 1], of each image of a batch; `purpose` names the draw, as `"view_1"` does.

    Source:
        Chen et al. 2020, arXiv:2002.05709, appendix A. Differs from the paper: colors always change in the order
        brightness, contrast, saturation (to gray if the image loses its color), hue.

    Example:
        >>> from nacgen.data.datasets import load_dataset
        >>> from nacgen.data.stream import ImageStream
        >>> batch = ImageStream(load_dataset("digits"), batch_size=4, seed=0).batch(0)
        >>> random_view(batch, ViewPolicy(), "view_1").shape
        torch.Size([4, 3, 16, 16])
    """
    if policy.function is not None:
        return augment_own(policy.function, to_float(batch.images), batch, purpose)
    draw, n = batch.generator(purpose), batch.global_size
    height, width = batch.images.shape[-2:]
    boxes = random_boxes(n, height, width, policy.crop_scale, policy.crop_ratio, draw)
    flips = torch.rand(n, generator=draw) < (0.5 if policy.flip else 0.0)
    jitter = torch.tensor([policy.jitter, policy.jitter, policy.saturation])
    factors = 1 + jitter * (2 * torch.rand(n, 3, generator=draw) - 1)
    is_unchanged = torch.rand(n, generator=draw) >= policy.jitter_probability
    factors[is_unchanged] = 1.0
    factors[torch.rand(n, generator=draw) < policy.grayscale_probability, 2] = 0.0
    images = batch.images / 255
    images = resized_crop(images, batch.local(boxes), batch.local(flips), policy.size)
    images = color_jitter(images, batch.local(factors))
    if policy.hue > 0:  # drawn last, so that the other draws are the same without hue
        shifts = policy.hue * (2 * torch.rand(n, generator=draw) - 1)
        images = shift_hue(images, batch.local(shifts.masked_fill(is_unchanged, 0.0)))
    return images.mul_(2).sub_(1)


def augment_own(
    function: Augmentation, images: Float[Tensor, "b 3 h w"], batch: Batch, purpose: str
) -> Float[Tensor, "b 3 i j"]:
    """Augment images in [-1, 1] by a function of the user's own, with torch's global generators seeded.

    They are seeded by (seed, purpose, position, process), so that a resumed run draws the same again.

    Raises:
        DataError: The function does not give as many images of floats.
    """
    seed = generator(batch.seed, f"{purpose}_{batch.start}", batch.images_seen).initial_seed()
    on_gpu = images.device.type == "cuda"
    with torch.random.fork_rng(devices=[images.device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        augmented = function(images)
    is_tensor = isinstance(augmented, Tensor)
    fits = is_tensor and augmented.ndim == 4 and augmented.shape[:2] == images.shape[:2]
    if not fits or not augmented.is_floating_point():
        came = f"{augmented.dtype} {tuple(augmented.shape)}" if is_tensor else type(augmented)
        raise DataError(
            f"an augmentation must give floats ({len(images)}, 3, h, w) for as many images in [-1, 1], got "
            f"{came}. Look at the function."
        )
    return augmented


def random_boxes(
    num_boxes: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: float,
    draw: torch.Generator,
) -> Float[Tensor, "n 4"]:
    """Draw random crops as (top, left, height, width) in whole pixels, all inside the images.

    Aspect ratios are log-uniform between `1 / ratio` and `ratio`. A side that is longer than the image is cut to
    it (torchvision draws again instead, up to ten times).
    """
    u = torch.rand(num_boxes, 4, generator=draw)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, 0])
    log_ratio = math.log(ratio) * (2 * u[:, 1] - 1)
    box_width = (area * log_ratio.exp()).sqrt().round().clamp(1, width)
    box_height = (area / log_ratio.exp()).sqrt().round().clamp(1, height)
    top = (u[:, 2] * (height - box_height + 1)).floor()
    left = (u[:, 3] * (width - box_width + 1)).floor()
    return torch.stack([top, left, box_height, box_width], dim=1)


def resized_crop(
    images: Float[Tensor, "b c h w"],
    boxes: Float[Tensor, "b 4"],
    flips: Bool[Tensor, " b"],
    size: int | None = None,
) -> Float[Tensor, "b c new_h new_w"]:
    """Crop (top, left, height, width) of each image and resize the crop bilinearly, in one resampling.

    Equal to torchvision's `resized_crop` without antialiasing, and `horizontal_flip`. A crop larger than the
    result is not smoothed first, so images should not be stored much larger than views.
    """
    height, width = images.shape[-2:]
    new_height, new_width = (height, width) if size is None else (size, size)
    top, left, box_height, box_width = (rearrange(side, "b -> b 1") for side in boxes.unbind(1))
    y = _source_coordinates(new_height, height, top, box_height)
    x = _source_coordinates(new_width, width, left, box_width)
    x = torch.where(rearrange(flips, "b -> b 1"), x.flip(1), x)
    grid = torch.stack(
        torch.broadcast_tensors(rearrange(x, "b w -> b 1 w"), rearrange(y, "b h -> b h 1")), dim=-1
    )  # -> (b, new_h, new_w, 2), x first
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def _source_coordinates(new_size: int, size: int, start: Tensor, extent: Tensor) -> Tensor:
    """Map centers of output pixels to the source, in grid_sample's -1..1, as (b, new_size)."""
    centers = torch.arange(new_size, device=start.device) + 0.5
    pixels = start + centers * extent / new_size - 0.5
    pixels = torch.minimum(torch.maximum(pixels, start), start + extent - 1)
    return (2 * pixels + 1) / size - 1


def color_jitter(
    images: Float[Tensor, "b 3 h w"], factors: Float[Tensor, "b 3"]
) -> Float[Tensor, "b 3 h w"]:
    """Multiply brightness, contrast and saturation of images in [0, 1], each as torchvision's `adjust_*`."""
    brightness, contrast, saturation = (rearrange(f, "b -> b 1 1 1") for f in factors.unbind(1))
    images = (images * brightness).clamp_(0, 1)
    mean = reduce(_grayscale(images), "b 1 h w -> b 1 1 1", "mean")
    images = torch.lerp(mean, images, contrast).clamp_(0, 1)
    return torch.lerp(_grayscale(images), images, saturation).clamp_(0, 1)


def shift_hue(
    images: Float[Tensor, "b 3 h w"], shifts: Float[Tensor, " b"]
) -> Float[Tensor, "b 3 h w"]:
    """Shift the hue of each image in the HSV model, as torchvision's `adjust_hue`.

    With M and m the largest and smallest channel of a pixel and H its hue in sixths of a turn, each channel is
    `M - (M - m) clip(min(k, 4 - k), 0, 1)`, where `k = (H + n) mod 6` and n is 5, 3, 1 for red, green, blue.
    Shifts are in turns, -0.5 to 0.5; a third turns red into green. Gray does not change.
    """
    red, green, blue = images.split(1, dim=1)
    largest, smallest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = largest - smallest
    divisor = torch.where(chroma == 0, 1.0, chroma)  # gray has no hue; any will do
    hue = torch.where(
        largest == red,
        (green - blue) / divisor,
        torch.where(largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    n = rearrange(torch.tensor([5.0, 3.0, 1.0], device=images.device), "c -> 1 c 1 1")
    k = hue + 6 * rearrange(shifts, "b -> b 1 1 1") + n  # -> (b, 3, h, w)
    k = k - 6 * (k / 6).floor_()  # several times faster than the remainder
    return largest - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def _grayscale(images: Tensor) -> Tensor:
    """Return luma, (b, 3, h, w) -> (b, 1, h, w)."""
    red, green, blue = images.split(1, dim=1)
    luma: Tensor = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return luma


def diff_augment(
    images: Float[Tensor, "b c h w"],
    batch: Batch,
    purpose: str,
    translation: float = 0.125,
    cutout: float = 0.5,
    color: bool = False,
) -> Float[Tensor, "b c h w"]:
    """Change the colors of each image, shift it and blank a square of it, differentiably (arXiv:2006.10738).

    Args:
        images: Real or generated images in [-1, 1]; row `i` belongs to row `i` of the batch.
        batch: Batch that gives the position in the stream.
        purpose: Name of the draw, so that real and generated images are augmented differently.
        translation: Largest shift as a fraction of the size; whole pixels up to it are equally likely. Pixels that
            move in are 0.
        cutout: Side of the square, whose pixels become 0, as a fraction of the size. Its place is uniform over
            whole pixels, and it may reach over the edge by half.
        color: Change brightness by up to 0.5, saturation by a factor of 0 to 2, contrast of 0.5 to 1.5; the
            results may leave [-1, 1].
    """
    if translation == cutout == 0 and not color:
        return images
    draw, n = batch.generator(purpose), batch.global_size
    height, width = images.shape[-2:]

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (n,), generator=draw)

    reach, hole = (
        [int(side * part + 0.5) for side in (height, width)] for part in (translation, cutout)
    )
    shifts = torch.stack([integers(-r, r + 1) for r in reach], dim=1)  # (n, 2)
    # The middle of the square, for an even one between pixels.
    places = zip((height, width), hole, strict=True)
    starts = torch.stack([integers(0, s + 1 - h % 2) - h // 2 for s, h in places], dim=1)
    if color:  # drawn last, so that shifts and squares are the same without it
        strength = batch.local(torch.rand(n, 3, generator=draw))
        brightness, saturation, contrast = rearrange(strength, "b k -> k b 1 1 1")
        images = images + brightness - 0.5
        gray = reduce(images, "b c h w -> b 1 h w", "mean")
        images = gray + (images - gray) * 2 * saturation
        mean = reduce(images, "b c h w -> b 1 1 1", "mean")
        images = mean + (images - mean) * (contrast + 0.5)
    if translation == cutout == 0:
        return images
    pixels = batch.local(shifts)
    y = torch.arange(height, device=images.device) - pixels[:, :1]  # (b, h): source row
    x = torch.arange(width, device=images.device) - pixels[:, 1:]
    inside = _outer((y >= 0) & (y < height), (x >= 0) & (x < width))
    rows = rearrange(y.clamp(0, height - 1), "b h -> b 1 h 1").expand_as(images)
    columns = rearrange(x.clamp(0, width - 1), "b w -> b 1 1 w").expand_as(images)
    images = images.gather(2, rows).gather(3, columns) * inside
    if cutout > 0:
        y, x = (torch.arange(side, device=images.device) for side in (height, width))
        top, left = batch.local(starts).split(1, dim=1)
        images = images * ~_outer(
            (y >= top) & (y < top + hole[0]), (x >= left) & (x < left + hole[1])
        )
    return images


def _outer(rows: Bool[Tensor, "b h"], columns: Bool[Tensor, "b w"]) -> Bool[Tensor, "b 1 h w"]:
    """Combine a mask over rows and one over columns by logical and."""
    return rearrange(rows, "b h -> b 1 h 1") & rearrange(columns, "b w -> b 1 1 w")
