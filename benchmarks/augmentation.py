"""Augmentation: two views of each image as SimCLR draws them, from uint8 pixels to float batches.

Crops, mirror images, brightness, contrast, saturation, hue and loss of colour, of 32 px. Our operations are
compared with torchvision's at the same parameters. The peers draw from the same distributions (torchvision
shuffles the order of colour changes, kornia's saturation is another formula), and start where a training loop has
its images: PIL in worker processes, kornia and nacgen as tensors.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision_ops

import page
from nacgen.data.augment import ViewPolicy, color_jitter, random_boxes, resized_crop, shift_hue
from nacgen.data.stream import Batch
from nacgen.pretraining.base import two_views
from pil_loader import WORKERS, TwoViews, build_loader
from timing import Row, Size, agree, in_turns, missing, noise

POLICY = ViewPolicy(crop_scale=(0.2, 1.0), grayscale_probability=0.2, hue=0.1)


def compare_operations(images: Tensor) -> str:
    """Crop with mirror, three colour changes and hue of each image beside torchvision's functions."""
    n, size = len(images), images.shape[-1]
    draw = torch.Generator().manual_seed(1)
    pixels = images.float() / 255
    boxes = random_boxes(n, size, size, POLICY.crop_scale, POLICY.crop_ratio, draw)
    flips = torch.rand(n, generator=draw) < 0.5
    factors = 0.6 + 0.8 * torch.rand(n, 3, generator=draw)
    shifts = 0.2 * torch.rand(n, generator=draw) - 0.1
    ours = shift_hue(color_jitter(resized_crop(pixels, boxes, flips), factors), shifts)
    theirs = []
    for i in range(n):
        view = torchvision_ops.resized_crop(
            pixels[i], *boxes[i].int().tolist(), [size, size], antialias=False
        )
        view = torchvision_ops.horizontal_flip(view) if flips[i] else view
        view = torchvision_ops.adjust_brightness(view, float(factors[i, 0]))
        view = torchvision_ops.adjust_contrast(view, float(factors[i, 1]))
        view = torchvision_ops.adjust_saturation(view, float(factors[i, 2]))
        theirs.append(torchvision_ops.adjust_hue(view, float(shifts[i])))
    # torchvision rounds the weight of red to 0.2989, and hue magnifies what that makes of greyish pixels
    return agree(torch.stack(theirs), ours, 2e-3, "views at torchvision's parameters")


def our_views(images: Tensor, batch_size: int) -> None:
    """Two views of every image, a batch at a time."""
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        two_views(Batch(part, None, 0, start, len(part), 0), POLICY)


def pil(size: Size) -> list[Row]:
    """Torchvision's pipeline of PIL images in two worker processes that stay alive."""
    n, batch_size = size.of((32, 16), (1024, 128), (4096, 128))
    images = noise(n, 32)
    agreement = compare_operations(images[: min(n, 128)])
    loader = build_loader(images, TwoViews(POLICY, 32), batch_size)

    def theirs() -> None:
        for _ in loader:
            pass

    what = f"two views of images, batches of {batch_size}"
    peer = f"torchvision PIL, {WORKERS} workers"
    row = in_turns(
        what,
        peer,
        theirs,
        lambda: our_views(images, batch_size),
        size.turns,
        agreement=agreement,
        items=(2 * n, "views"),
        at_least=4,
    )
    return [row]


def kornia_pipeline() -> Callable[[Tensor], Tensor]:
    """Views of float images in [0, 1] from the same distributions."""
    import kornia.augmentation as k

    return k.AugmentationSequential(
        k.RandomResizedCrop((32, 32), scale=POLICY.crop_scale, ratio=(3 / 4, 4 / 3)),
        k.RandomHorizontalFlip(p=0.5),
        k.ColorJitter(POLICY.jitter, POLICY.jitter, POLICY.saturation, POLICY.hue, p=0.8),
        k.RandomGrayscale(p=POLICY.grayscale_probability),
    )


def kornia(size: Size) -> list[Row]:
    """Kornia's pipeline of tensors, a batch at a time."""
    n, batch_size = size.of((32, 16), (1024, 128), (4096, 128))
    what, peer = f"two views of tensors, batches of {batch_size}", "kornia"
    if reason := missing("kornia"):
        return [Row(what=what, peer=peer, at_least=3, skipped=reason)]
    images, pipeline = noise(n, 32), kornia_pipeline()
    agreement = compare_operations(images[: min(n, 128)])

    def theirs() -> None:
        for part in images.split(batch_size):
            for _ in range(2):
                pipeline(part.float() / 255)

    row = in_turns(
        what,
        peer,
        theirs,
        lambda: our_views(images, batch_size),
        size.turns,
        agreement=agreement,
        items=(2 * n, "views"),
        at_least=3,
    )
    return [row]


PARTS = {"pil": pil, "kornia": kornia}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("torchvision", "kornia", "pillow"))
