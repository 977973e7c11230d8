from pathlib import Path

import pytest
import torch
from torch import Tensor

from nacgen.errors import CheckpointNotFoundError, ConfigurationError, DataError
from nacgen.metrics.extractors import (
    ClassifierExtractor,
    FeatureExtractor,
    build_extractor,
    plain_float32,
)
from nacgen.models.classifier import ImageClassifier
from tests.metrics.means import ChannelMeans, generate


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(num_classes=4, channels=(8, 16), feature_dim=6, image_size=4)


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
    extractor = ClassifierExtractor(classifier, name="tiny")
    features = extractor(images)
    scaled = (images.float() - 127.5) / 127.5
    torch.testing.assert_close(features.pooled, classifier.features(scaled))
    torch.testing.assert_close(features.logits, classifier(scaled))
    assert (extractor.score_name, extractor.feature_dim) == ("fd_tiny", 6)
    assert (extractor.resize, extractor.independent_of_nac) == ("none", True)


@pytest.mark.parametrize("extractor", [ChannelMeans(), None])
def test_any_object_of_the_right_shape_is_an_extractor(
    extractor: object, classifier: ImageClassifier
) -> None:
    assert isinstance(extractor or ClassifierExtractor(classifier, name="x"), FeatureExtractor)
    assert not isinstance(classifier, FeatureExtractor)


def test_the_network_is_frozen_in_evaluation_mode(
    classifier: ImageClassifier, images: Tensor
) -> None:
    extractor = ClassifierExtractor(classifier.train(), name="tiny")
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    assert not extractor(images).pooled.requires_grad


def test_features_are_plain_float32_under_autocast(
    classifier: ImageClassifier, images: Tensor
) -> None:
    extractor = ClassifierExtractor(classifier, name="tiny")
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


def test_the_fingerprint_follows_the_weights(classifier: ImageClassifier) -> None:
    first = ClassifierExtractor(classifier, name="tiny").fingerprint
    assert ClassifierExtractor(classifier, name="other").fingerprint == first
    with torch.no_grad():
        classifier.head.bias[0] += 1e-6
    assert ClassifierExtractor(classifier, name="tiny").fingerprint != first


def test_the_fingerprint_follows_the_preprocessing(classifier: ImageClassifier) -> None:
    class Resizing(ClassifierExtractor):
        resize = "bilinear"

    resizing = Resizing(classifier, name="tiny")
    assert resizing.fingerprint != ClassifierExtractor(classifier, name="tiny").fingerprint


def test_the_digits_classifier_is_read_from_a_folder(
    classifier: ImageClassifier, images: Tensor, tmp_path: Path
) -> None:
    classifier.save_pretrained(tmp_path / "classifier")
    extractor = build_extractor("digits_classifier", weights=tmp_path / "classifier")
    expected = ClassifierExtractor(classifier, name="digits_classifier")
    assert torch.equal(extractor(images).pooled, expected(images).pooled)
    assert extractor.fingerprint == expected.fingerprint
    assert extractor.score_name == "fd_digits_classifier"


def test_an_unknown_extractor_lists_the_known_ones() -> None:
    message = "one of digits_classifier, inception, got 'vgg'"
    with pytest.raises(ConfigurationError, match=message):
        build_extractor("vgg")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=str(tmp_path / "nowhere")):
        build_extractor("digits_classifier", weights=tmp_path / "nowhere")


def test_images_of_another_size_are_refused(classifier: ImageClassifier) -> None:
    extractor = ClassifierExtractor(classifier, name="tiny")
    message = "tiny looks at images of 4x4 px and does not resize, got 4x6"
    with pytest.raises(DataError, match=message):
        extractor(torch.zeros(2, 3, 4, 6, dtype=torch.uint8))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4).byte()])
def test_what_is_no_batch_of_images_is_refused(classifier: ImageClassifier, images: Tensor) -> None:
    extractor = ClassifierExtractor(classifier, name="tiny")
    with pytest.raises(DataError, match=rf"got {images.dtype} \({images.shape[0]}, .*to_uint8"):
        extractor(images)
