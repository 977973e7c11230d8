"""One call that scores a generator against a reference, and says under which protocol."""

from collections.abc import Sequence

import torch

from nacgen.data.image_sets import ImageSet
from nacgen.data.pixels import QUANTIZATION
from nacgen.errors import ConfigurationError
from nacgen.metrics.collection import Collected, ImageSource, collect
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.reference import ReferenceStatistics
from nacgen.metrics.result import (
    EvaluationProtocol,
    EvaluationResult,
    MetricName,
    MetricSettings,
)
from nacgen.metrics.scores import METRICS, Pair
from nacgen.system.processes import Processes, ProcessInfo


def evaluate(
    generate: ImageSource | ReferenceStatistics,
    reference: ImageSet | ReferenceStatistics,
    *,
    extractor: FeatureExtractor,
    num_samples: int | None = None,
    metrics: Sequence[MetricName] = ("fid",),
    settings: MetricSettings | None = None,
    seed: int = 0,
    batch_size: int = 500,
    accelerator: ProcessInfo | None = None,
    model_label: str = "ema",
) -> EvaluationResult:
    """Score generated images against reference images, by all metrics in one pass.

    `generate(indices)` makes image `i` from seed `i`, whatever else is in the batch. Scores then
    depend neither on `batch_size` nor on the number of processes, up to the last bits of float32.
    It runs without gradients; torch's random state is restored afterwards. Put the model into evaluation
    mode, its modes and weights are not touched here.

    `fid` is the Fréchet distance, `is` the Inception Score, `kid` the kernel distance over subsets and
    `kid_exact` over all pairs, `prdc` precision, recall, density and coverage, `fid_infinity` the
    extrapolated Fréchet distance. Scores are called so in the features of the FID Inception, and after the
    extractor in others: `fd_digits_classifier`. `fid` and `is` take the same memory for any number of images;
    the others hold all features on every process.

    Args:
        generate: Int64 `(b,)` to uint8 images `(b, 3, h, w)`, see `to_uint8`; or statistics of images that
            were passed through the extractor before.
        reference: Reference images, or what `ReferenceStatistics` made of them.
        extractor: What images are compared by.
        num_samples: Images to generate, two or more; absent where `generate` is statistics.
        metrics: Which scores, one or more.
        settings: The metrics' own choices; absent, those of published figures.
        seed: Which images: 0 takes the first `num_samples` indices, 1 the next, and so on.
        batch_size: Images that are generated at a time, on each process.
        accelerator: Whose processes share the work, and each must call; absent, this one works alone.
        model_label: Which weights generate, for the record.

    Returns:
        Scores with their protocol, the same on every process.

    Raises:
        ConfigurationError: Numbers that contradict each other, an unknown metric, reference statistics of
            another extractor or without what a metric needs.
        DataError: There are fewer than two images, or they are not uint8 `(b, 3, h, w)`.
        NonFiniteError: A feature is NaN or infinite. Every process raises what one of them did.
    """
    settings = settings or MetricSettings()
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ConfigurationError(
            f"metrics must be among {', '.join(METRICS)}, got {', '.join(map(repr, unknown))}."
        )
    if not metrics:
        raise ConfigurationError(
            f"metrics must name one or more of {', '.join(METRICS)}, got none."
        )
    chosen = [METRICS[name] for name in metrics]
    needs_features = any(metric.needs_features for metric in chosen)
    needs_logits = any(metric.needs_logits for metric in chosen)
    num_samples = _num_samples(generate, num_samples, seed, needs_logits)
    _check_sizes(metrics, settings, extractor, reference, num_samples)
    if not isinstance(reference, ReferenceStatistics):
        reference = ReferenceStatistics.compute(
            reference,
            extractor,
            keep_features=needs_features,
            batch_size=batch_size,
            accelerator=accelerator,
        )
    _check_held("reference", reference, extractor, needs_features)
    if isinstance(generate, ReferenceStatistics):
        _check_held("generated", generate, extractor, needs_features)
        generated = Collected(stats=generate.stats, features=generate.features)
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
    pair = Pair(
        reference=Collected(stats=reference.stats, features=reference.features),
        generated=generated,
        score_name=extractor.score_name,
        settings=settings,
    )
    return EvaluationResult(
        scores={name: score for metric in chosen for name, score in metric.scores(pair).items()},
        protocol=EvaluationProtocol(
            extractor=extractor.name,
            extractor_fingerprint=extractor.fingerprint,
            independent_of_nac=extractor.independent_of_nac,
            reference=reference.name,
            reference_fingerprint=reference.fingerprint,
            num_reference=reference.stats.n,
            num_samples=num_samples,
            quantization=QUANTIZATION,
            resize=extractor.resize,
            feature_dim=extractor.feature_dim,
            dtype="float32",
            seed=seed,
            model=model_label,
            ddof=1,
        ),
        warnings=tuple(_warnings(extractor, pair, metrics)),
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


def _check_sizes(
    metrics: Sequence[MetricName],
    settings: MetricSettings,
    extractor: FeatureExtractor,
    reference: ImageSet | ReferenceStatistics,
    num_samples: int,
) -> None:
    """Before anything is generated."""
    num_reference = (
        reference.stats.n if isinstance(reference, ReferenceStatistics) else len(reference)
    )
    for name in metrics:
        least = METRICS[name].least(settings, extractor.feature_dim)
        if num_reference < least.reference or num_samples < least.generated:
            raise ConfigurationError(
                f"{name} needs {least.reference} reference images and {least.generated} generated ones or "
                f"more, got {num_reference} and {num_samples} (for {settings} and {extractor.feature_dim} "
                f"features). Take more images, or leave out {name}."
            )


def _check_held(
    which: str,
    statistics: ReferenceStatistics,
    extractor: FeatureExtractor,
    needs_features: bool,
) -> None:
    if statistics.extractor_fingerprint != extractor.fingerprint:
        raise ConfigurationError(
            f"{which} statistics must come from the extractor that scores, {extractor.name} "
            f"({extractor.fingerprint}), got statistics from {statistics.extractor_fingerprint}. "
            "Compute them again."
        )
    if needs_features and statistics.features is None:
        with_features = [name for name, metric in METRICS.items() if metric.needs_features]
        raise ConfigurationError(
            f"{', '.join(with_features)} need the features of the images, but the {which} statistics of "
            f"{statistics.name} hold none. Compute them with keep_features=True."
        )


def _warnings(
    extractor: FeatureExtractor,
    pair: Pair,
    metrics: Sequence[MetricName],
) -> list[str]:
    sets = {"reference": pair.reference.stats, "generated": pair.generated.stats}
    messages = [
        f"rank_deficient: {stats.n} {which} images for {extractor.feature_dim} features; the score "
        "depends strongly on their number."
        for which, stats in sets.items()
        if stats.is_rank_deficient and not {"fid", "fid_infinity"}.isdisjoint(metrics)
    ]
    if "kid" in metrics and any(stats.n == pair.subset_size for stats in sets.values()):
        messages.append(
            f"subsets_alike: each subset holds all {pair.subset_size} images of a set; the spread of the kernel "
            "distance says little about other images, that of kid_exact does."
        )
    if not extractor.independent_of_nac:
        messages.append(
            f"not_independent: the features of {extractor.name} come from Neural Activation "
            "Coding; they cannot judge what it brings."
        )
    return messages
