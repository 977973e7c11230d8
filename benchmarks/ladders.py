"""Try a judge of images on ladders of known damage, and print a table for docs/judges.md.

    python benchmarks/ladders.py fashion_classifier --dataset fashion-mnist --data-dir PATH
    python benchmarks/ladders.py efficientnet_lite0 --dataset folder --data-dir PATH --floor 500 1000 2000 5000

A judge passes if every step down a ladder scores worse than the one before it. Training images are the reference,
test images are damaged; both are drawn with seed 0. The floor is what whole test images score.
"""

import argparse
import io
import itertools
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor

from nacgen.data.datasets import Dataset, load_dataset
from nacgen.functional.frechet import frechet_bias, frechet_distance
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.extractors.build import build_extractor

BATCH = 100


def blurred(images: Tensor, times: float) -> Tensor:
    """Average each pixel with its eight neighbors, several times."""
    for _ in range(int(times)):
        padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate")
        images = F.avg_pool2d(padded, 3, stride=1).round().to(torch.uint8)
    return images


def noisy(images: Tensor, deviation: float) -> Tensor:
    """Add Gaussian noise."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + deviation * noise).round().clamp(0, 255).to(torch.uint8)


def compressed(images: Tensor, quality: float) -> Tensor:
    """Compress each image as JPEG and decode it."""
    decoded = []
    for image in rearrange(images, "n c h w -> n h w c").numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality))
        pixels = bytearray(Image.open(file).convert("RGB").tobytes())
        decoded.append(torch.frombuffer(pixels, dtype=torch.uint8).view(*image.shape))
    return rearrange(torch.stack(decoded), "n h w c -> n c h w")


def collapsed(images: Tensor, part: float) -> Tensor:
    """Replace the first part of the images by the last ten, again and again."""
    repeated = int(part * len(images))
    return torch.cat(
        [images[-10:].repeat(repeated // 10 + 1, 1, 1, 1)[:repeated], images[repeated:]]
    )


LADDERS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur, 3x3 mean, times": (blurred, (1, 2, 3)),
    "noise, standard deviation of 255": (noisy, (10, 20, 40, 80)),
    "JPEG, quality": (compressed, (75, 50, 25, 10)),
    "mode dropping, part that repeats ten images": (collapsed, (0.25, 0.5, 0.75, 0.9)),
}
CLASSES = (8, 5, 2, 1)  # that are left of ten


def moments(extractor: FeatureExtractor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the features of images."""
    features = torch.cat([extractor(part).pooled.double() for part in images.split(BATCH)])
    return features.mean(0), torch.cov(features.mT)


def drawn(dataset: Dataset, number: int, classes: int | None = None) -> Tensor:
    """Draw images without replacement, of the first classes alone if asked."""
    indices = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    if classes is not None:
        assert dataset.labels is not None
        indices = indices[dataset.labels[indices] < classes]
    if len(indices) < number:
        sys.exit(
            f"{number} images are needed, {len(indices)} are there. Give a smaller --num-images."
        )
    return dataset.read(indices[:number])


def main() -> None:
    """Print the ladders and floors of one judge; the exit status is 1 where a ladder is not climbed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("extractor")
    parser.add_argument("--weights")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--num-images", type=int, default=1_000)
    parser.add_argument("--floor", type=int, nargs="*", default=[500, 1_000, 2_000, 5_000])
    options = parser.parse_args()
    extractor = build_extractor(options.extractor, weights=options.weights)
    train, test = (load_dataset(options.dataset, s, options.data_dir) for s in ("train", "test"))
    n, passed = options.num_images, True

    reference = moments(extractor, drawn(train, n))
    whole = drawn(test, n)

    def score(images: Tensor) -> float:
        return float(frechet_distance(*reference, *moments(extractor, images)).value)

    floor = score(whole)
    print(f"`{extractor.score_name}`, {n:,} images, whole test images {floor:.4g}\n")
    print("| damage | score, step by step | each worse |\n| --- | --- | --- |")
    ladders = {
        name: [(level, score(damage(whole, level))) for level in levels]
        for name, (damage, levels) in LADDERS.items()
    }
    ladders["classes left of ten"] = [(k, score(drawn(test, n, k))) for k in CLASSES]
    for name, steps in ladders.items():
        scores = [floor, *(value for _, value in steps)]
        climbs = all(a < b for a, b in itertools.pairwise(scores))
        passed &= climbs
        row = ", ".join(f"{level:g}: {value:.4g}" for level, value in steps)
        print(f"| {name} | {row} | {'yes' if climbs else '**no**'} |")
    print("\n| images of each | floor | two samples of one Gaussian |\n| --- | ---: | ---: |")
    for number in options.floor:
        one, other = (moments(extractor, drawn(dataset, number)) for dataset in (train, test))
        value = float(frechet_distance(*one, *other).value)
        print(f"| {number:,} | {value:.4g} | {float(frechet_bias(one[1], number, number)):.4g} |")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
