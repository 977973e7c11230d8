import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nacgen import metrics
from nacgen.data.datasets import ImageDataset
from nacgen.data.lazy import LazyImageDataset
from nacgen.data.pictures import FRAME, write_grid
from nacgen.errors import ConfigurationError, DataError, NonFiniteError
from nacgen.functional.frechet import fid_infinity, frechet_bias, frechet_distance
from nacgen.functional.inception_score import inception_score
from nacgen.functional.kernel_distance import kernel_distance, kernel_distance_of_subsets
from nacgen.functional.neighbors import (
    nearest_neighbor_memorization,
    precision_recall_density_coverage,
)
from nacgen.metrics import (
    ClassifierExtractor,
    EvaluationResult,
    Features,
    MetricSettings,
    ReferenceStatistics,
    evaluate,
)
from nacgen.metrics.scores import Compared
from nacgen.metrics.statistics import Collected
from nacgen.models.classifier import ImageClassifier
from tests.metrics.means import ChannelMeans, dataset, generate

NAME = "fd_channel_means"
METRICS = ("fid", "is", "kid", "kid_exact", "prdc", "fid_infinity")
SETTINGS = MetricSettings(splits=4, subsets=9, subset_size=20, neighbors=3, seed=4)


def evaluate_means(**options: object) -> EvaluationResult:
    options = {"extractor": ChannelMeans(), "num_samples": 30} | options
    return evaluate(generate, options.pop("reference", dataset()), **options)


def test_the_score_is_the_distance_of_the_features() -> None:
    real, generated = (
        ChannelMeans()(images).pooled.double()
        for images in (dataset().images, generate(torch.arange(30)))
    )
    distance = frechet_distance(
        real.mean(0), torch.cov(real.mT), generated.mean(0), torch.cov(generated.mT)
    )
    score = evaluate_means().scores[NAME]
    assert score.value == pytest.approx(distance.value.item(), rel=1e-12)
    assert score.raw == score.value
    assert (score.spread_kind, score.settings) == (None, {})
    assert score.bias == pytest.approx(frechet_bias(torch.cov(real.mT), 40, 30).item(), rel=1e-12)
    assert score.spread is None


def test_every_metric_is_that_of_its_features_in_one_pass() -> None:
    """Against the functions on plain tensors."""
    seen = []

    class Watched(ChannelMeans):
        def __call__(self, images: Tensor) -> Features:
            seen.append(len(images))
            return super().__call__(images)

    result = evaluate_means(
        extractor=Watched(), metrics=METRICS, settings=SETTINGS, num_samples=60, batch_size=7
    )
    assert sum(seen) == 40 + 60
    real, made = (
        ChannelMeans()(images) for images in (dataset().images, generate(torch.arange(60)))
    )
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).argsort()
    subsets = kernel_distance_of_subsets(
        real.pooled, made.pooled, num_subsets=9, subset_size=20, seed=4
    )
    rows = real.pooled.double()
    line = fid_infinity(rows.mean(0), torch.cov(rows.mT), made.pooled, seed=4)
    fractions = precision_recall_density_coverage(real.pooled, made.pooled, k=3)
    expected = {
        "inception_score_channel_means": inception_score(made.logits[order], num_splits=4),
        "kd_channel_means": subsets,
        "kd_exact_channel_means": kernel_distance(real.pooled, made.pooled),
        **{f"{name}_channel_means": (value, None) for name, value in fractions._asdict().items()},
        "fd_infinity_channel_means": line[:2],
    }
    assert list(result.scores) == [NAME, *expected]
    for name, (value, spread) in expected.items():
        score = result.scores[name]
        assert score.value == score.raw == pytest.approx(value.item(), rel=1e-9), name
        assert score.spread is spread or score.spread == pytest.approx(spread.item(), rel=1e-7)
        assert (score.spread_kind is None) == (spread is None)
    assert result.scores["kd_channel_means"].settings == {
        "subsets": 9,
        "subset_size": 20,
        "seed": 4,
    }
    assert result.scores["inception_score_channel_means"].settings == {"splits": 4}
    assert result.scores["recall_channel_means"].settings == {"neighbors": 3}
    biases = {name: score.bias for name, score in result.scores.items()}
    assert biases["kd_channel_means"] == biases["kd_exact_channel_means"] == 0
    assert biases["recall_channel_means"] is biases["inception_score_channel_means"] is None
    shared = frechet_bias(torch.cov(rows.mT), 40, 10**12).item()
    assert biases["fd_infinity_channel_means"] == pytest.approx(shared)


@pytest.mark.parametrize(
    ("score_name", "expected"),
    [
        ("fid", {"fid", "kid", "recall", "fid_infinity"}),
        ("fid_clean", {"fid_clean", "kid_clean", "recall_clean", "fid_infinity_clean"}),
        ("fd_x", {"fd_x", "kd_x", "recall_x", "fd_infinity_x"}),
    ],
)
def test_only_the_fid_inception_gives_scores_their_published_names(
    score_name: str, expected: set[str]
) -> None:
    extractor = ChannelMeans()
    extractor.score_name = score_name
    result = evaluate_means(
        extractor=extractor, metrics=("fid", "kid", "prdc", "fid_infinity"), settings=SETTINGS
    )
    assert expected <= set(result.scores)


def test_a_metric_gives_the_same_alone_and_among_others() -> None:
    together = evaluate_means(metrics=METRICS, settings=SETTINGS)
    for metric in METRICS:
        alone = evaluate_means(metrics=(metric,), settings=SETTINGS)
        assert alone.scores.items() <= together.scores.items()


@pytest.mark.parametrize("batch_size", [1, 29, 1000])
def test_no_metric_depends_on_the_batch_size(batch_size: int) -> None:
    options = {"metrics": METRICS, "settings": SETTINGS}
    expected = evaluate_means(**options).scores
    for name, score in evaluate_means(batch_size=batch_size, **options).scores.items():
        assert score.value == pytest.approx(expected[name].value, rel=1e-9), name


def test_statistics_are_scored_like_the_images_that_they_are_of() -> None:
    images = replace(dataset(), name="made", images=generate(torch.arange(30)))
    made = ReferenceStatistics.compute(images, ChannelMeans(), keep_features=True)
    options = {"extractor": ChannelMeans(), "metrics": ("fid", "kid", "prdc")}
    found = evaluate(made, dataset(), **options)
    expected = evaluate_means(**options)
    assert found.protocol == replace(expected.protocol, model="files")
    for name, score in expected.scores.items():
        assert found.scores[name].value == pytest.approx(score.value, rel=1e-12)


def test_images_sorted_by_class_are_scored_like_shuffled_ones() -> None:
    """Each split would else hold one class."""
    shades = torch.arange(4).repeat_interleave(20) * 80  # four classes, one after the other
    images = shades.to(torch.uint8).expand(3, 4, 4, 80).permute(3, 0, 1, 2)
    noise = generate(torch.arange(80)) // 16
    mixed = torch.randperm(80, generator=torch.Generator().manual_seed(1))

    class Shades(ChannelMeans):
        def __call__(self, images: Tensor) -> Features:
            means = super().__call__(images).pooled / 80
            classes = means.mean(dim=1).floor().long()
            return Features(means, 50 * F.one_hot(classes, 4).float())

    def spreads(order: Tensor) -> tuple[float, float, float]:
        made = (images + noise)[order]
        real = (images + noise.flip(0)).flip(0)[order]  # from the last class to the first
        reference = ImageDataset("shades", "all", real, None)
        scores = evaluate(
            lambda indices: made[indices],
            reference,
            extractor=Shades(),
            metrics=("is", "kid_exact"),
            settings=MetricSettings(splits=4),
            num_samples=80,
        ).scores
        inception, kernel = (
            scores[f"{name}_channel_means"] for name in ("inception_score", "kd_exact")
        )
        return inception.value, kernel.value, kernel.spread or 0.0

    by_class, shuffled = spreads(torch.arange(80)), spreads(mixed)
    assert by_class[0] > 3
    assert shuffled[0] > 3
    assert by_class[1] == pytest.approx(shuffled[1], rel=1e-9)
    assert by_class[2] == pytest.approx(shuffled[2], rel=1e-9)


def test_features_from_a_file_join_those_on_the_device() -> None:
    held = ReferenceStatistics.compute(dataset(), ChannelMeans(), keep_features=True)
    there = torch.zeros(40, 3, device="meta")
    generated = Collected(stats=held.stats, features=there)
    sets = Compared(reference=held, generated=generated, score_name=NAME, settings=SETTINGS)
    assert {rows.device for rows in sets.features} == {there.device}


def test_memorization_compares_with_the_training_images() -> None:
    """Against the function on plain tensors; half of the generated images are copies."""
    training = replace(dataset(), name="seen", images=generate(torch.arange(20, 50)))
    score = evaluate_means(metrics=("memorization",), training_images=training).scores
    made, seen, unseen = (
        ChannelMeans()(images).pooled
        for images in (generate(torch.arange(30)), training.images, dataset().images)
    )
    expected = nearest_neighbor_memorization(made, seen, unseen)
    assert (expected.distances == 0).sum() == 10
    found = score["memorization_channel_means"]
    assert found.value == pytest.approx(expected.probability.item(), rel=1e-12)
    assert found.spread is not None
    assert (found.value - 0.5) / found.spread == pytest.approx(expected.z_score.item(), rel=1e-9)
    assert found.bias == 0.5
    fingerprint = found.settings["training_fingerprint"]
    held = ReferenceStatistics.compute(training, ChannelMeans(), keep_features=True)
    assert (held.name, held.stats.n, held.fingerprint) == ("seen/train", 30, fingerprint)
    again = evaluate_means(metrics=("memorization",), training_images=held)
    assert again.scores == score


def test_subsets_of_all_images_are_warned_of() -> None:
    (warning,) = evaluate_means(metrics=("kid",)).warnings
    assert warning.startswith("subsets_alike: each subset holds all 30 images")
    assert evaluate_means(metrics=("kid",), settings=SETTINGS).warnings == ()


def test_scores_without_covariances_do_not_mind_their_rank() -> None:
    settings = MetricSettings(splits=1, neighbors=1)
    options = {"num_samples": 3, "reference": dataset(3), "settings": settings}
    assert evaluate_means(metrics=("is", "prdc"), **options).warnings == ()


def test_modes_weights_and_random_states_are_as_before() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 48), torch.nn.Dropout())
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def draw(indices: Tensor) -> Tensor:
        noise = torch.rand(len(indices), 48) + model(indices[:, None].float()) * 0
        return (noise * 255).to(torch.uint8).reshape(-1, 3, 4, 4)

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    evaluate(
        draw,
        dataset(),
        extractor=ChannelMeans(),
        num_samples=30,
        metrics=METRICS,
        settings=SETTINGS,
    )
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model] == [True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_the_protocol_says_all_that_decides_the_score() -> None:
    result = evaluate_means(model_label="generator", seed=2)
    fields = result.to_dict()["protocol"]
    assert fields.pop("reference_fingerprint").startswith("sha256:")
    assert fields == {
        "extractor": "channel_means",
        "extractor_fingerprint": "sha256:of-means",
        "independent_of_nac": True,
        "reference": "noise/train",
        "num_reference": 40,
        "num_samples": 30,
        "quantization": "uint8, round half up",
        "resize": "none",
        "feature_dim": 3,
        "dtype": "float32",
        "seed": 2,
        "model": "generator",
        "ddof": 1,
    }
    assert result.warnings == ()


def test_the_score_of_a_network_does_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    extractor = ClassifierExtractor(ImageClassifier(channels=(8,), image_size=4))
    values = [
        evaluate_means(extractor=extractor, num_samples=200, batch_size=size)
        .scores["fd_classifier"]
        .value
        for size in (200, 33, 2)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_image_i_comes_from_seed_i_and_seeds_share_no_image() -> None:
    asked = []

    def note(indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        return generate(indices)

    for seed in (0, 1):
        evaluate(note, dataset(), extractor=ChannelMeans(), num_samples=9, batch_size=4, seed=seed)
    assert asked == list(range(18))


def test_a_reference_that_is_read_from_files_is_the_one_in_memory(tmp_path: Path) -> None:
    held = dataset()
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(len(held)))
    for i, path in enumerate(paths):
        write_grid(held.images[i : i + 1], path, columns=1)  # with a frame of one pixel
    framed = F.pad(held.images, (1, 1, 1, 1), value=FRAME)
    lazy = LazyImageDataset("noise", "train", paths, held.image_size + 2, None)
    expected, found = (
        evaluate_means(reference=reference) for reference in (replace(held, images=framed), lazy)
    )
    assert found == expected


def test_a_result_survives_json_to_the_last_bit() -> None:
    result = evaluate_means(metrics=METRICS, settings=replace(SETTINGS, subset_size=30))
    assert result.warnings
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text) == result.to_dict()


def test_too_few_images_and_features_of_nac_are_warned_of() -> None:
    extractor = ChannelMeans()
    extractor.independent_of_nac = False
    result = evaluate_means(num_samples=3, reference=dataset(2), extractor=extractor)
    assert [warning.partition(":")[0] for warning in result.warnings] == [
        "rank_deficient",
        "rank_deficient",
        "not_independent",
    ]
    assert "2 reference images for 3 features" in result.warnings[0]
    assert "3 generated images" in result.warnings[1]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 1}, "two or more and seed zero or more, got 1 and 0"),
        ({"seed": -1}, "two or more and seed zero or more, got 30 and -1"),
        ({"batch_size": 0}, "batch_size must be one or more, got 0"),
        ({"num_samples": None}, "two or more and seed zero or more, got None and 0"),
        ({"metrics": ("fid", "fjd")}, "metrics must be one or more of fid, is, kid, .* got 'fjd'"),
        ({"metrics": ("memorization",)}, "training_images go together, got memorization alone"),
        ({"training_images": dataset()}, "go together, got training_images alone"),
        ({"metrics": ()}, "metrics must be one or more of fid, .* got none"),
        ({"num_samples": 2.0}, r"must be whole numbers, got 2\.0 and 0"),
        ({"num_samples": "5"}, "must be whole numbers, got '5' and 0"),
        ({"seed": 0.5}, r"must be whole numbers, got 30 and 0\.5"),
        ({"extractor": "inception"}, "must be a FeatureExtractor, got 'inception'. Build it"),
        ({"metrics": ("is",), "num_samples": 9}, "is needs 2 reference .* and 10 .* got 40 and 9"),
        (
            {"metrics": ("kid",), "settings": MetricSettings(subset_size=31)},
            "kid needs 31 reference images and 31 generated ones or more, got 40 and 30",
        ),
        ({"metrics": ("kid_exact",), "num_samples": 3}, "kid_exact needs 4 .* 4 .* 40 and 3"),
        ({"metrics": ("prdc",), "reference": dataset(5)}, "prdc needs 6 .* 6 .* got 5 and 30"),
        ({"metrics": ("fid_infinity",), "num_samples": 20}, "needs 2 .* 21 .* got 40 and 20"),
        ({"reference": dataset(1)}, "fid needs 2 reference images .* got 1 and 30"),
        (
            {
                "metrics": ("kid",),
                "reference": ReferenceStatistics.compute(dataset(), ChannelMeans()),
            },
            "kid, .* need the features .* reference statistics of noise/train hold none",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate_means(**options)


def test_reference_statistics_of_other_features_are_refused() -> None:
    reference = ReferenceStatistics.compute(dataset(), ChannelMeans())
    foreign = replace(reference, extractor_fingerprint="sha256:of-edges")
    with pytest.raises(ConfigurationError, match=r"\(sha256:of-means\), got sha256:of-edges"):
        evaluate_means(reference=foreign)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 7}, "of 40 images fix num_samples, .* got num_samples 7, seed 0"),
        ({"seed": 1}, "got num_samples None, seed 1"),
        ({"metrics": ("is",)}, "got num_samples None, seed 0 and the metric is"),
        ({"metrics": ("kid",)}, "generated statistics of noise/train hold none"),
    ],
)
def test_what_statistics_cannot_give_is_refused(options: dict[str, object], message: str) -> None:
    made = ReferenceStatistics.compute(dataset(), ChannelMeans())
    with pytest.raises(ConfigurationError, match=message):
        evaluate(
            made, replace(made, features=torch.zeros(40, 3)), extractor=ChannelMeans(), **options
        )


@pytest.mark.parametrize("field", ["splits", "subsets", "subset_size", "neighbors", "seed"])
def test_settings_that_cannot_be_are_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{field} must be \d or more, got -1"):
        MetricSettings(**{field: -1})


def test_an_inception_score_needs_logits_that_are_finite() -> None:
    class Silent(ChannelMeans):
        def __call__(self, images: Tensor) -> Features:
            return Features(super().__call__(images).pooled, None)

    class Broken(ChannelMeans):
        def __call__(self, images: Tensor) -> Features:
            pooled, logits = super().__call__(images)
            return Features(pooled, (0 * logits).log())

    with pytest.raises(
        ConfigurationError, match="needs class logits, and channel_means gives none"
    ):
        evaluate_means(metrics=("is",), extractor=Silent())
    with pytest.raises(NonFiniteError, match="NaN or infinity in 10 of 10 splits of 30 images"):
        evaluate_means(metrics=("is",), extractor=Broken())


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(8, 3, 4, 4), r"uint8 \(b, 3, h, w\), got torch.float32 \(8, 3, 4, 4\)"),
        (torch.zeros(8, 4, 4, 4, dtype=torch.uint8), r"got torch.uint8 \(8, 4, 4, 4\)"),
        (torch.zeros(8, 4, 4, dtype=torch.uint8), r"got torch.uint8 \(8, 4, 4\)"),
        (torch.zeros(7, 3, 4, 4, dtype=torch.uint8), r"each of 8 indices, got 7\."),
    ],
)
def test_what_is_no_batch_of_images_is_refused(images: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(lambda indices: images, dataset(), extractor=ChannelMeans(), num_samples=8)


def test_features_that_are_not_finite_are_refused() -> None:
    class Broken(ChannelMeans):
        def __call__(self, images: Tensor) -> Features:
            return Features(super().__call__(images).pooled.log() * float("inf"), None)

    with pytest.raises(NonFiniteError, match="3 of 3 columns among 40 samples"):
        evaluate_means(extractor=Broken())


def test_public_names_are_listed_and_loaded() -> None:
    assert all(getattr(metrics, name).__name__ == name for name in dir(metrics))
    with pytest.raises(AttributeError, match=r"nacgen\.metrics attribute fid"):
        metrics.fid  # noqa: B018


def test_results_are_read_without_torch() -> None:
    code = "import sys, nacgen.metrics.result; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scores_do_without_scipy() -> None:
    code = """
import sys
sys.modules["scipy"] = None  # an import of it fails now
import torch
from nacgen.metrics import evaluate
from tests.metrics.means import ChannelMeans, dataset, generate
metrics = ("fid", "is", "kid", "kid_exact", "prdc", "fid_infinity")
result = evaluate(
    generate, dataset(), extractor=ChannelMeans(), num_samples=30, metrics=metrics
)
assert len(result.scores) == 9
import nacgen.functional.neighbors, nacgen.metrics.selfcheck
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
