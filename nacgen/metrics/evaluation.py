"""Scores of a generator against reference images, with the protocol that they were measured under."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor
from torch.utils.data import Dataset

from nacgen.data.image_sets import ImageSet
from nacgen.data.pixels import QUANTIZATION
from nacgen.errors import ConfigurationError
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.inputs import AnyImages, ImageSource, image_set
from nacgen.metrics.options import ExtractorConfig
from nacgen.metrics.reference import ReferenceStatistics
from nacgen.metrics.result import (
    MAX_IMAGES,
    EvaluationProtocol,
    EvaluationResult,
    MetricName,
    MetricSettings,
    check_metrics,
)
from nacgen.metrics.scores import METRICS, Compared
from nacgen.metrics.sources import RunImages, open_source
from nacgen.metrics.statistics import Collected, collect
from nacgen.system.processes import Processes, ProcessInfo


def evaluate(
    generate: ImageSource | AnyImages | ReferenceStatistics,
    reference: AnyImages | ReferenceStatistics,
    *,
    extractor: FeatureExtractor,
    num_samples: int | None = None,
    metrics: Sequence[MetricName | str] = ("fid",),
    settings: MetricSettings | None = None,
    seed: int = 0,
    batch_size: int = 500,
    accelerator: ProcessInfo | None = None,
    model_label: str | None = None,
    training_images: AnyImages | ReferenceStatistics | None = None,
) -> EvaluationResult:
    """Score generated images against reference images, by all metrics in one pass.

    `generate(indices)` makes image `i` from seed `i`, whatever else is in the batch. Scores then depend
    neither on `batch_size` nor on the number of processes, up to the last bits of float32. It runs without
    gradients, and torch's random state is restored afterwards. Put the model into evaluation mode first.

    `fid` is the Fréchet distance, `is` the Inception Score, `kid` the kernel distance over subsets and
    `kid_exact` over all pairs, `prdc` precision, recall, density and coverage, `fid_infinity` the extrapolated
    Fréchet distance. `memorization` is the probability that a generated image lies closer to the training images
    than a reference image does: 0.5 where both are drawn alike, towards 1 for a generator that copies. Its
    reference images must be ones that the generator was not trained on.

    Scores have these names in the features of the FID Inception, and are named after the extractor in others:
    `fd_digits_classifier`. `fid` and `is` take the same memory for any number of images; the others hold all
    features on every process.

    Args:
        generate: Function from int64 indices `(b,)` to uint8 images `(b, 3, h, w)`; or images in any form that
            `reference` has.
        reference: Reference images: a uint8 tensor or array, a torch Dataset or DataLoader of images or of pairs
            that begin with one, a list of images, the path of a folder or an `.npz` archive, the path of a run,
            a dataset's name and split, a dataset of `nacgen.data`, or statistics. Tensors and arrays are
            `(n, 3, h, w)` or `(n, h, w, 3)`.
        extractor: Feature extractor that images are compared by.
        num_samples: Number of images to generate, two or more. All, where `generate` holds images; left out where
            it is statistics.
        metrics: Names of one or more metrics.
        settings: Choices that the metrics leave open; by default those of published figures.
        seed: Block of images to generate: 0 takes the first `num_samples` indices, 1 the next, and so on.
        batch_size: Number of images generated at a time, on each process.
        accelerator: Accelerator whose processes all call this function and divide the work; by default this
            process works alone.
        model_label: Name of the weights that generate, for the protocol; by default "files" where `generate` holds
            images or statistics, else the run's own or "ema".
        training_images: Images the generator was trained on, or their statistics; for `memorization` alone.

    Returns:
        Scores with their protocol, the same on every process.

    Raises:
        ConfigurationError: If a metric is unknown, if numbers contradict each other, or if statistics come from
            another extractor or lack what a metric needs.
        DataError: If images are not uint8 `(b, 3, h, w)`, or in none of these forms.
        NonFiniteError: If a feature is NaN or infinite. Every process raises what one of them did.

    Example:
        >>> from nacgen.data.datasets import load_dataset
        >>> digits = load_dataset("digits", "train")
        >>> extractor = nacgen.metrics.build_extractor("digits_classifier")
        >>> result = evaluate(digits.images[:100], "digits/train", extractor=extractor)
        >>> list(result.scores)
        ['fd_digits_classifier']
    """
    # Refuse what cannot be had, before anything is generated.
    settings = settings or MetricSettings()
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not isinstance(extractor, FeatureExtractor):
        raise ConfigurationError(
            f"extractor must be a FeatureExtractor, got {extractor!r:.100}. Build it with build_extractor, or "
            "wrap a network of your own in CallableExtractor."
        )
    check_metrics(metrics, training_images is not None)
    if not all(hasattr(n, "__index__") for n in (seed, num_samples or 0)):
        raise ConfigurationError(
            f"num_samples and seed must be whole numbers, got {num_samples!r} and {seed!r}."
        )
    chosen = [METRICS[name] for name in metrics]
    needs_features = any(metric.needs_features for metric in chosen)
    needs_logits = any(metric.needs_logits for metric in chosen)
    generate = (
        generate if _is_function(generate) else _opened(generate, extractor, num_samples, seed)
    )
    reference = _opened(reference, extractor)
    num_samples = _num_samples(generate, num_samples, seed, needs_logits)
    if model_label is None:
        of_set = generate.split if isinstance(generate, RunImages) else "files"
        is_held = isinstance(generate, ImageSet | ReferenceStatistics)
        model_label = of_set if is_held else "ema"
    for name, metric in zip(metrics, chosen, strict=True):
        of_reference, of_generated = metric.least(settings, extractor.feature_dim)
        if len(reference) < of_reference or num_samples < of_generated:
            raise ConfigurationError(
                f"{name} needs {of_reference} reference images and {of_generated} generated ones or more, got "
                f"{len(reference)} and {num_samples} (for {settings} and {extractor.feature_dim} features)."
            )

    # Statistics of real images, then of generated ones.
    def statistics_of(kind: str, images: AnyImages | ReferenceStatistics) -> ReferenceStatistics:
        images = _opened(images, extractor)
        if not isinstance(images, ReferenceStatistics):
            images = ReferenceStatistics.compute(
                images,
                extractor,
                keep_features=needs_features,
                batch_size=batch_size,
                accelerator=accelerator,
            )
        if images.extractor_fingerprint != extractor.fingerprint:
            raise ConfigurationError(
                f"{kind} statistics must come from the extractor that scores, {extractor.name} "
                f"({extractor.fingerprint}), got {images.extractor_fingerprint}. Compute them again."
            )
        if needs_features and images.features is None:
            with_features = ", ".join(name for name in METRICS if METRICS[name].needs_features)
            raise ConfigurationError(
                f"{with_features} need the features of the images, but the {kind} statistics of {images.name} "
                "hold none. Compute them with keep_features=True."
            )
        return images

    real = statistics_of("reference", reference)
    training = None if training_images is None else statistics_of("training", training_images)
    if isinstance(generate, ReferenceStatistics):
        made = statistics_of("generated", generate)
        generated = Collected(stats=made.stats, features=made.features)
    else:
        generated = collect(
            generate.read if isinstance(generate, ImageSet) else generate,
            torch.arange(num_samples) + seed * num_samples,
            extractor,
            batch_size=batch_size,
            processes=Processes.of(accelerator),
            keep_features=needs_features,
            num_splits=settings.splits if needs_logits else None,
        )

    # Scores, and the protocol they were measured under.
    sets = Compared(
        reference=real,
        generated=generated,
        score_name=extractor.score_name,
        settings=settings,
        training=training,
    )
    return EvaluationResult(
        scores={name: score for metric in chosen for name, score in metric.scores(sets).items()},
        protocol=EvaluationProtocol(
            extractor=extractor.name,
            extractor_fingerprint=extractor.fingerprint,
            independent_of_nac=extractor.independent_of_nac,
            reference=real.name,
            reference_fingerprint=real.fingerprint,
            num_reference=real.stats.n,
            num_samples=num_samples,
            quantization=QUANTIZATION,
            resize=extractor.resize,
            feature_dim=extractor.feature_dim,
            dtype=getattr(extractor, "precision", "float32"),
            seed=seed,
            model=model_label,
            ddof=1,
        ),
        warnings=tuple(_warnings(extractor, sets, metrics)),
    )


def _is_function(generate: object) -> TypeGuard[ImageSource]:
    has_images = isinstance(generate, ImageSet | Tensor | Sequence | Dataset | ReferenceStatistics)
    return callable(generate) and not has_images


def _opened(
    images: object,
    extractor: FeatureExtractor,
    num_samples: int | None = None,
    seed: int = 0,
) -> ImageSet | ReferenceStatistics:
    """Bring images of any form to a numbered set, or read the file of statistics that a path leads to."""
    limit = None if num_samples is None else num_samples * (max(seed, 0) + 1)
    if isinstance(images, str | Path):
        device = getattr(extractor, "device", "cpu")
        source = open_source(str(images), ExtractorConfig(num_samples=limit), device)
        if isinstance(source, Path):
            return ReferenceStatistics.load(source, extractor)
        return source
    return images if isinstance(images, ReferenceStatistics) else image_set(images, limit)


def _num_samples(
    generate: ImageSource | ImageSet | ReferenceStatistics,
    num_samples: int | None,
    seed: int,
    needs_logits: bool,
) -> int:
    if isinstance(generate, ReferenceStatistics):
        n = generate.stats.n
        if num_samples not in (None, n) or seed != 0 or needs_logits:
            raise ConfigurationError(
                f"statistics of {n} images fix num_samples, have no seed and hold no class probabilities, got "
                f"num_samples {num_samples}, seed {seed}{' and the metric is' * needs_logits}. Leave these out."
            )
        return n
    if isinstance(generate, ImageSet):
        num_samples = len(generate) if num_samples is None else num_samples
        if num_samples * (seed + 1) > len(generate):
            raise ConfigurationError(
                f"num_samples times the number of blocks, seed + 1, must be at most the {len(generate)} images of "
                f"{generate.name}, got {num_samples} and seed {seed}. Leave num_samples out to score all."
            )
    if num_samples is None or not 2 <= num_samples <= MAX_IMAGES or seed < 0:
        raise ConfigurationError(
            f"num_samples must be two or more and seed zero or more, got {num_samples} and {seed}. At most "
            f"{MAX_IMAGES:,} images are scored at a time."
        )
    return num_samples


def _warnings(
    extractor: FeatureExtractor, sets: Compared, metrics: Sequence[MetricName | str]
) -> Iterator[str]:
    by_kind = {"reference": sets.reference.stats, "generated": sets.generated.stats}
    for kind, stats in by_kind.items():
        if stats.n <= extractor.feature_dim and not {"fid", "fid_infinity"}.isdisjoint(metrics):
            yield (
                f"rank_deficient: {stats.n} {kind} images for {extractor.feature_dim} features; the score "
                "depends strongly on their number."
            )
    if 100 * sets.reference.stats.covariance.trace() < sets.generated.stats.covariance.trace():
        yield (
            "scales_differ: the features of reference images vary a hundred times less than those of generated "
            "ones; see that both come from pixels of 0 to 255."
        )
    if "kid" in metrics and any(stats.n == sets.subset_size for stats in by_kind.values()):
        yield (
            f"subsets_alike: each subset holds all {sets.subset_size} images of a set; the spread of the kernel "
            "distance says little about other images, that of kid_exact does."
        )
    if not extractor.independent_of_nac:
        yield (
            f"not_independent: the features of {extractor.name} come from Neural Activation "
            "Coding; they cannot show what it brings."
        )
