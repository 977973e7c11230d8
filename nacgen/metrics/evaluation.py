"""Scores of a generator against reference images, with the protocol that they were measured under."""

from collections.abc import Iterator, Sequence

import torch

from nacgen.data.image_sets import ImageSet
from nacgen.data.pixels import QUANTIZATION
from nacgen.errors import ConfigurationError
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.reference import ReferenceStatistics
from nacgen.metrics.result import (
    EvaluationProtocol,
    EvaluationResult,
    MetricName,
    MetricSettings,
    check_metrics,
)
from nacgen.metrics.scores import METRICS, Compared
from nacgen.metrics.statistics import Collected, ImageSource, collect
from nacgen.system.processes import Processes, ProcessInfo


def evaluate(
    generate: ImageSource | ReferenceStatistics,
    reference: ImageSet | ReferenceStatistics,
    *,
    extractor: FeatureExtractor,
    num_samples: int | None = None,
    metrics: Sequence[MetricName | str] = ("fid",),
    settings: MetricSettings | None = None,
    seed: int = 0,
    batch_size: int = 500,
    accelerator: ProcessInfo | None = None,
    model_label: str = "ema",
    training_images: ImageSet | ReferenceStatistics | None = None,
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
        generate: Function from int64 indices `(b,)` to uint8 images `(b, 3, h, w)`; or the statistics of images
            that were passed through the extractor before.
        reference: Reference images, or their statistics.
        extractor: Feature extractor that images are compared by.
        num_samples: Number of images to generate, two or more; left out where `generate` is statistics.
        metrics: Names of one or more metrics.
        settings: Choices that the metrics leave open; by default those of published figures.
        seed: Block of images to generate: 0 takes the first `num_samples` indices, 1 the next, and so on.
        batch_size: Number of images generated at a time, on each process.
        accelerator: Accelerator whose processes all call this function and divide the work; by default this
            process works alone.
        model_label: Name of the weights that generate, for the protocol.
        training_images: Images the generator was trained on, or their statistics; for `memorization` alone.

    Returns:
        Scores with their protocol, the same on every process.

    Raises:
        ConfigurationError: If a metric is unknown, if numbers contradict each other, or if statistics come from
            another extractor or lack what a metric needs.
        DataError: If images are not uint8 `(b, 3, h, w)`.
        NonFiniteError: If a feature is NaN or infinite. Every process raises what one of them did.

    Example:
        >>> from nacgen.data.datasets import load_dataset
        >>> digits = load_dataset("digits", "train")
        >>> extractor = nacgen.metrics.build_extractor("digits_classifier")
        >>> result = evaluate(digits.read, digits, extractor=extractor, num_samples=100)
        >>> list(result.scores)
        ['fd_digits_classifier']
    """
    # Refuse what cannot be had, before anything is generated.
    settings = settings or MetricSettings()
    check_metrics(metrics, training_images is not None)
    chosen = [METRICS[name] for name in metrics]
    needs_features = any(metric.needs_features for metric in chosen)
    needs_logits = any(metric.needs_logits for metric in chosen)
    num_samples = _num_samples(generate, num_samples, seed, needs_logits)
    for name, metric in zip(metrics, chosen, strict=True):
        of_reference, of_generated = metric.least(settings, extractor.feature_dim)
        if len(reference) < of_reference or num_samples < of_generated:
            raise ConfigurationError(
                f"{name} needs {of_reference} reference images and {of_generated} generated ones or more, got "
                f"{len(reference)} and {num_samples} (for {settings} and {extractor.feature_dim} features)."
            )

    # Statistics of real images, then of generated ones.
    def statistics_of(kind: str, images: ImageSet | ReferenceStatistics) -> ReferenceStatistics:
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
            generate,
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
            dtype="float32",
            seed=seed,
            model=model_label,
            ddof=1,
        ),
        warnings=tuple(_warnings(extractor, sets, metrics)),
    )


def _num_samples(
    generate: ImageSource | ReferenceStatistics,
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
    if num_samples is None or num_samples < 2 or seed < 0:
        raise ConfigurationError(
            f"num_samples must be two or more and seed zero or more, got {num_samples} and {seed}."
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
