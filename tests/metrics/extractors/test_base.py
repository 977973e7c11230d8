from pathlib import Path

import pytest
import torch
from torch import Tensor

from nacgen.data.datasets import load_dataset
from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError, DataError
from nacgen.metrics import ReferenceStatistics, evaluate
from nacgen.metrics.extractors import base
from nacgen.metrics.extractors.base import FeatureExtractor
from nacgen.metrics.extractors.build import ClassifierExtractor, build_extractor
from nacgen.models.classifier import ImageClassifier
from nacgen.models.encoder import NACEncoder
from nacgen.reporting.blocks import score_text
from nacgen.system.precision import plain_float32
from tests.metrics.means import ChannelMeans, generate


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(
        num_classes=4, channels=(8, 16), feature_dim=6, image_size=4, dataset="tiny"
    )


@pytest.fixture
def images() -> Tensor:
    return generate(torch.arange(5))


def precisions() -> list[str]:
    on = torch.backends
    switches = (on.cuda.matmul, on.cudnn.conv, on.mkldnn.matmul, on.mkldnn.conv)
    return [switch.fp32_precision for switch in switches]


def test_a_classifier_gives_its_features_and_logits(
    classifier: ImageClassifier, images: Tensor
) -> None:
    extractor = ClassifierExtractor(classifier)
    features = extractor(images)
    scaled = (images.float() - 127.5) / 127.5
    torch.testing.assert_close(features.pooled, classifier.features(scaled))
    torch.testing.assert_close(features.logits, classifier(scaled))
    assert (extractor.score_name, extractor.feature_dim) == ("fd_tiny_classifier", 6)
    assert (extractor.resize, extractor.independent_of_nac) == ("none", True)


@pytest.mark.parametrize("extractor", [ChannelMeans(), None])
def test_any_object_of_the_right_shape_is_an_extractor(
    extractor: object, classifier: ImageClassifier
) -> None:
    assert isinstance(extractor or ClassifierExtractor(classifier), FeatureExtractor)
    assert not isinstance(classifier, FeatureExtractor)


def test_the_network_is_frozen_in_evaluation_mode(
    classifier: ImageClassifier, images: Tensor
) -> None:
    extractor = ClassifierExtractor(classifier.train())
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not extractor(images).pooled.requires_grad


def test_features_are_plain_float32_under_autocast(
    classifier: ImageClassifier, images: Tensor
) -> None:
    extractor = ClassifierExtractor(classifier)
    expected = extractor(images).pooled
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = extractor(images).pooled
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


def test_reduced_precision_is_off_inside_and_as_before_outside() -> None:
    default = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        before = precisions()
        with plain_float32("cpu"):
            assert precisions() == ["ieee"] * 4
        assert precisions() == before != ["ieee"] * 4
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(default)


@pytest.mark.usefixtures("as_users_run_it")
def test_tf32_is_refused_where_the_device_has_none() -> None:
    with pytest.raises(ConfigurationError, match=r"of the Ampere generation.*got the device cpu"):
        build_extractor("digits_classifier", precision="tf32")
    with pytest.raises(ConfigurationError, match="one of float32, tf32, got 'fp8'"):
        build_extractor("digits_classifier", precision="fp8")


def test_tf32_is_on_for_a_gpu_inside_and_named_by_protocol_text_and_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = build_extractor("digits_classifier")
    monkeypatch.setattr(base, "has_tf32", lambda device: True)
    fast = build_extractor("digits_classifier", precision="tf32")
    assert isinstance(fast, ClassifierExtractor)
    seen: list[list[str]] = []
    extract, before = fast.extract, precisions()
    monkeypatch.setattr(fast, "extract", lambda x: (seen.append(precisions()), extract(x))[1])
    digits = load_dataset("digits", "test")
    reference = ReferenceStatistics.compute(digits, fast)
    assert reference.stats.covariance.dtype == torch.float64
    assert seen == [["tf32", "tf32", "ieee", "ieee"]]
    assert precisions() == before
    result = evaluate(digits, reference, extractor=fast)
    assert result.protocol.dtype == "tf32"
    assert "features in tf32" in score_text(result)
    assert evaluate(digits, digits, extractor=exact).protocol.dtype == "float32"
    assert fast.fingerprint != exact.fingerprint
    with pytest.raises(ConfigurationError, match="must come from the extractor that scores"):
        evaluate(digits, reference, extractor=exact)


def test_the_fingerprint_follows_the_weights(classifier: ImageClassifier) -> None:
    first = ClassifierExtractor(classifier).fingerprint
    assert ClassifierExtractor(classifier).fingerprint == first
    with torch.no_grad():
        classifier.head.bias[0] += 1e-6
    assert ClassifierExtractor(classifier).fingerprint != first


def test_the_fingerprint_follows_the_preprocessing(classifier: ImageClassifier) -> None:
    class Resizing(ClassifierExtractor):
        resize = "bilinear"

    resizing = Resizing(classifier)
    assert resizing.fingerprint != ClassifierExtractor(classifier).fingerprint


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (None, "classifier"),
        ("cifar10", "cifar10_classifier"),
        ("digits", "own_digits_classifier"),  # not the released one
    ],
)
def test_a_classifier_of_ones_own_is_named_by_its_dataset(
    dataset: str | None, name: str, images: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    classifier = ImageClassifier(4, (8, 16), feature_dim=6, image_size=4, dataset=dataset)
    classifier.save_pretrained(tmp_path / "own")
    extractor = build_extractor("classifier", weights=tmp_path / "own")
    expected = ClassifierExtractor(classifier)
    assert torch.equal(extractor(images).pooled, expected(images).pooled)
    assert extractor.fingerprint == expected.fingerprint
    assert (extractor.name, extractor.score_name) == (name, f"fd_{name}")


@pytest.mark.parametrize("name", ["digits_classifier", "fashion_classifier"])
def test_only_the_released_weights_have_the_released_name(name: str, tmp_path: Path) -> None:
    released = build_extractor(name)
    assert (released.name, released.score_name) == (name, f"fd_{name}")
    folder = f"checkpoints/{name.replace('_', '-')}"
    classifier = ImageClassifier.from_pretrained(folder)
    classifier.save_pretrained(tmp_path / "copy")
    for extractor in (name, "classifier"):
        copy = build_extractor(extractor, weights=tmp_path / "copy")
        assert (copy.name, copy.fingerprint) == (name, released.fingerprint)
    with torch.no_grad():
        classifier.head.bias[0] += 1e-6
    classifier.save_pretrained(tmp_path / "changed")
    changed = build_extractor("classifier", weights=tmp_path / "changed")
    assert changed.score_name != released.score_name
    with pytest.raises(
        CheckpointError,
        match=f"{released.fingerprint}, but .*changed holds others, {changed.fingerprint}",
    ):
        build_extractor(name, weights=tmp_path / "changed")


def test_a_classifier_of_ones_own_needs_its_folder() -> None:
    with pytest.raises(
        ConfigurationError, match=r"got no weights\. Train one with nacgen train-cl"
    ):
        build_extractor("classifier")


def test_a_nac_encoder_is_marked_as_dependent() -> None:
    encoder = NACEncoder.from_pretrained("checkpoints/digits-nac")
    pixels = torch.randint(256, (3, 3, 16, 16)).to(torch.uint8)
    extractor = build_extractor("nac_encoder", weights="checkpoints/digits-nac")
    assert not extractor.independent_of_nac
    assert (extractor.score_name, extractor.feature_dim) == ("fd_nac_encoder", encoder.feature_dim)
    features, logits = extractor(pixels)
    with torch.no_grad():
        expected = encoder.features((pixels.float() - 127.5) / 127.5)
    torch.testing.assert_close(features, expected)
    assert logits is None


def test_a_nac_encoder_needs_its_folder() -> None:
    with pytest.raises(
        ConfigurationError, match="nac_encoder needs the folder of an encoder, got no"
    ):
        build_extractor("nac_encoder")


def test_only_inception_has_a_choice_of_resizes() -> None:
    with pytest.raises(ConfigurationError, match="inception only, got 'tf1' for digits_classifier"):
        build_extractor("digits_classifier", resize="tf1")


def test_an_unknown_extractor_lists_the_known_ones() -> None:
    message = (
        "one of digits_classifier, fashion_classifier, classifier, inception, .*, nac_encoder, or "
    )
    message += "package.module:function, got 'vgg'"
    with pytest.raises(ConfigurationError, match=message):
        build_extractor("vgg")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=str(tmp_path / "nowhere")):
        build_extractor("digits_classifier", weights=tmp_path / "nowhere")


def test_images_of_another_size_are_refused(classifier: ImageClassifier) -> None:
    extractor = ClassifierExtractor(classifier)
    message = "tiny_classifier looks at images of 4x4 px and does not resize, got 4x6"
    with pytest.raises(DataError, match=message):
        extractor(torch.zeros(2, 3, 4, 6, dtype=torch.uint8))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4).byte()])
def test_what_is_no_batch_of_images_is_refused(classifier: ImageClassifier, images: Tensor) -> None:
    extractor = ClassifierExtractor(classifier)
    with pytest.raises(DataError, match=rf"got {images.dtype} \({images.shape[0]}, "):
        extractor(images)
