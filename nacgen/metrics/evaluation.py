"""One call that scores a generator against a reference, and says under which protocol."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from nacgen.data.datasets import Dataset
from nacgen.errors import ConfigurationError, DataError, NonFiniteError
from nacgen.functional.distances import frechet_bias, frechet_distance
from nacgen.metrics.extractors import FeatureExtractor, check_images
from nacgen.metrics.result import EvaluationProtocol, EvaluationResult, Score
from nacgen.metrics.statistics import GaussianStats, StatsAccumulator

QUANTISATION = "uint8, round half up"

ImageSource = Callable[[Int64[Tensor, " b"]], UInt8[Tensor, "b 3 h w"]]


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferenceStatistics:
    """Statistics of the images that others are compared with, and where they come from.

    Args:
        stats: Mean and covariance of their features.
        name: Dataset and split.
        fingerprint: Of the pixels.
        extractor_fingerprint: Of what the features were computed by.
    """

    stats: GaussianStats
    name: str
    fingerprint: str
    extractor_fingerprint: str

    @classmethod
    def compute(
        cls,
        dataset: Dataset,
        extractor: FeatureExtractor,
        *,
        batch_size: int = 500,
        process_index: int = 0,
        num_processes: int = 1,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Pass a dataset through an extractor once; hold the result to score many times.

        Args:
            dataset: Reference images.
            extractor: Their features.
            batch_size: Images that are held at a time.
            process_index: Of this process.
            num_processes: That share the work; each must call.
            device: Where sums are kept and exchanged.

        Returns:
            The same on every process.

        Raises:
            ConfigurationError: The numbers contradict each other or the process group.
            DataError: There are fewer than two images, or the extractor does not take them.
            NonFiniteError: A feature is NaN or infinite.
        """
        stats = _statistics(
            dataset.read,
            torch.arange(len(dataset)),
            extractor,
            batch_size=batch_size,
            process_index=process_index,
            num_processes=num_processes,
            device=device,
        )
        return cls(
            stats=stats,
            name=f"{dataset.name}/{dataset.split}",
            fingerprint=fingerprint_images(dataset),
            extractor_fingerprint=extractor.fingerprint,
        )


def evaluate(
    generate: ImageSource,
    reference: Dataset | ReferenceStatistics,
    *,
    extractor: FeatureExtractor,
    num_samples: int,
    seed: int = 0,
    batch_size: int = 500,
    process_index: int = 0,
    num_processes: int = 1,
    device: torch.device | str = "cpu",
    model_label: str = "ema",
) -> EvaluationResult:
    """Score generated images against reference images, by the Fréchet distance of their features.

    `generate(indices)` makes image `i` from seed `i`, whatever else is in the batch. Scores then
    depend neither on `batch_size` nor on the number of processes, up to the last bits of float32.
    It runs without gradients; torch's random state is restored afterwards.

    Args:
        generate: Int64 `(b,)` to uint8 images `(b, 3, h, w)`, see `to_uint8`.
        reference: Reference images, or what `ReferenceStatistics.compute` made of them.
        extractor: What images are compared by.
        num_samples: Images to generate, two or more.
        seed: Which images: 0 takes the first `num_samples` indices, 1 the next, and so on.
        batch_size: Images that are generated at a time, on each process.
        process_index: Of this process.
        num_processes: That share the work; each must call.
        device: Where sums are kept and exchanged, and whose random state is restored.
        model_label: Which weights generate, for the record.

    Returns:
        Scores with their protocol, the same on every process.

    Raises:
        ConfigurationError: Numbers that contradict each other or the process group, or reference
            statistics of another extractor.
        DataError: There are fewer than two images, or they are not uint8 `(b, 3, h, w)`.
        NonFiniteError: A feature is NaN or infinite; every process raises.
    """
    if num_samples < 2 or seed < 0:
        raise ConfigurationError(
            f"num_samples must be two or more and seed zero or more, got {num_samples} and {seed}."
        )
    sharing = {
        "batch_size": batch_size,
        "process_index": process_index,
        "num_processes": num_processes,
    }
    if not isinstance(reference, ReferenceStatistics):
        reference = ReferenceStatistics.compute(reference, extractor, device=device, **sharing)
    if reference.extractor_fingerprint != extractor.fingerprint:
        raise ConfigurationError(
            f"reference statistics must come from the extractor that scores, {extractor.name} "
            f"({extractor.fingerprint}), got statistics from {reference.extractor_fingerprint}. "
            "Compute them again."
        )
    indices = torch.arange(num_samples) + seed * num_samples
    stats = _statistics(generate, indices, extractor, device=device, **sharing)
    real = reference.stats
    distance = frechet_distance(real.mean, real.covariance, stats.mean, stats.covariance)
    bias = frechet_bias(real.covariance, real.n, stats.n)
    return EvaluationResult(
        scores={
            extractor.score_name: Score(
                value=float(distance.value), raw=float(distance.raw), bias=float(bias)
            )
        },
        protocol=EvaluationProtocol(
            extractor=extractor.name,
            extractor_fingerprint=extractor.fingerprint,
            independent_of_nac=extractor.independent_of_nac,
            reference=reference.name,
            reference_fingerprint=reference.fingerprint,
            num_reference=real.n,
            num_samples=num_samples,
            quantisation=QUANTISATION,
            resize=extractor.resize,
            feature_dim=extractor.feature_dim,
            dtype="float32",
            seed=seed,
            model=model_label,
            ddof=1,
        ),
        warnings=tuple(_warnings(extractor, real, stats)),
    )


def to_uint8(images: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b c h w"]:
    """Quantise images in [-1, 1] to 0 to 255, rounding half up.

    Args:
        images: In [-1, 1].

    Returns:
        What would be saved as PNG.

    Raises:
        NonFiniteError: A pixel is NaN.
        DataError: A pixel lies outside of [-1, 1].
    """
    outside = images[~(images.abs() <= 1)]  # NaN among them
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


def fingerprint_images(dataset: Dataset) -> str:
    """SHA-256 over shape and pixels.

    Args:
        dataset: Its images, 500 at a time, count in their order.

    Returns:
        `"sha256:…"`.
    """
    shape = (len(dataset), 3, dataset.image_size, dataset.image_size)
    digest = hashlib.sha256(str(shape).encode())
    for rows in torch.arange(len(dataset)).split(500):
        digest.update(dataset.read(rows).cpu().contiguous().numpy().data)
    return f"sha256:{digest.hexdigest()}"


def _statistics(
    images_of: ImageSource,
    indices: Int64[Tensor, " n"],
    extractor: FeatureExtractor,
    *,
    batch_size: int,
    process_index: int,
    num_processes: int,
    device: torch.device | str,
) -> GaussianStats:
    """Statistics over all indices, of which this process takes every `num_processes`-th."""
    if batch_size < 1 or not 0 <= process_index < num_processes:
        raise ConfigurationError(
            "batch_size must be one or more and process_index below num_processes, got "
            f"{batch_size}, {process_index} and {num_processes}."
        )
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if num_processes not in (1, world_size):
        raise ConfigurationError(
            f"num_processes must be that of the process group, {world_size}, or 1 to work alone, "
            f"got {num_processes}. Start the processes with torchrun."
        )
    accumulator = StatsAccumulator(extractor.feature_dim, device)
    own = indices[process_index::num_processes]
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        for batch in own.split(batch_size) if len(own) else ():
            images = images_of(batch)
            check_images(images)
            if len(images) != len(batch):
                raise DataError(
                    f"generate must give one image for each of {len(batch)} indices, got "
                    f"{len(images)}."
                )
            accumulator.update(extractor(images).pooled)
    if num_processes > 1:
        accumulator.reduce()
    return accumulator.result()


def _warnings(
    extractor: FeatureExtractor, real: GaussianStats, generated: GaussianStats
) -> list[str]:
    messages = [
        f"rank_deficient: {stats.n} {which} images for {extractor.feature_dim} features; the score "
        "depends strongly on their number."
        for which, stats in (("reference", real), ("generated", generated))
        if stats.is_rank_deficient
    ]
    if not extractor.independent_of_nac:
        messages.append(
            f"not_independent: the features of {extractor.name} come from Neural Activation "
            "Coding; they cannot judge what it brings."
        )
    return messages
