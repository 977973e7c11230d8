from typing import Any

import pytest
import torch
from einops import reduce
from torch import Tensor, nn

from nacgen.errors import ConfigurationError, DataError
from nacgen.metrics.extractors.base import CallableExtractor, FeatureExtractor
from tests.metrics.means import generate


def means(images: Tensor) -> Tensor:
    return reduce(images.float(), "b c h w -> b c", "mean")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.dropout(means(images))
        return features, self.linear(features)


def extractor(function: Any = means, **options: Any) -> CallableExtractor:
    return CallableExtractor(
        function, **({"name": "means", "feature_dim": 3, "version": "1"} | options)
    )


def test_a_function_is_an_extractor() -> None:
    images = generate(torch.arange(4))
    mine = extractor()
    assert isinstance(mine, FeatureExtractor)
    assert torch.equal(mine(images).pooled, means(images))
    assert mine(images).logits is None
    assert mine.score_name == "fd_means"


def test_a_module_is_evaluated_and_left_as_it_was() -> None:
    network = Network()
    network.linear.eval()
    images = generate(torch.arange(4))
    features, logits = extractor(network, version=None)(images)
    assert torch.equal(features, means(images))
    assert logits is not None
    assert logits.shape == (4, 2)
    assert not logits.requires_grad
    assert [m.training for m in network.modules()] == [True, False, True]
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_fingerprint_follows_version_and_weights() -> None:
    network = Network()
    before = extractor(network).fingerprint
    assert extractor(network).fingerprint == before
    assert extractor(network, version="2").fingerprint != before
    assert extractor(network, resize="none").fingerprint != before
    with torch.no_grad():
        network.linear.bias[0] += 1e-6
    assert extractor(network).fingerprint != before


def test_features_are_plain_float32_under_autocast() -> None:
    network = Network()
    images = generate(torch.arange(4))
    expected = extractor(network)(images).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(network)(images).logits, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "inception"}, "not inception or digits_classifier, got 'inception'"),
        ({"name": "My VGG"}, "lower-case .*, got 'My VGG'"),
        ({"feature_dim": 0}, "feature_dim must lie between 1 and 32,768, got 0"),
        ({"feature_dim": 10**9}, "feature_dim must lie between 1 and 32,768, got 1000000000"),
        ({"version": None}, "version must be given for means, a plain function"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        extractor(**options)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda images: images.float(),
            r"float features \(4, 3\) for 4 images, got .*32 \(4, 3, 4",
        ),
        (
            lambda images: means(images)[:2],
            r"float features \(4, 3\) .*, got torch.float32 \(2, 3\)",
        ),
        (lambda images: means(images)[:, 0], r"features \(4, 3\) .*, got torch.float32 \(4,\)"),
        (lambda images: means(images).long(), r"float features .*, got torch.int64 \(4, 3\)"),
        (lambda images: "features", r"float features .*, got 'features'"),
        (lambda images: (means(images), torch.zeros(3, 2)), r"logits \(4, k\).*32 \(3, 2\)"),
    ],
)
def test_an_answer_of_another_form_is_refused(function: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        extractor(function)(generate(torch.arange(4)))
