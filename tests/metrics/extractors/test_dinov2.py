import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.metrics.extractors.build import build_extractor
from nacgen.metrics.extractors.dinov2 import MEAN, STD, interpolate_positions, load_dinov2
from nacgen.metrics.extractors.resize import resize_clean
from tests.metrics.seeded import DIM, dinov2_state
from tests.reference.dinov2 import class_token, positions_at

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return dinov2_state()


def test_it_is_the_transformer_of_the_paper(state: State, tmp_path: Path) -> None:
    path = tmp_path / "dinov2.pth"
    torch.save(state, path)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (2, 3, 32, 20), generator=generator).to(torch.uint8)
    extractor = load_dinov2(path)
    features = extractor(images).pooled
    resized = resize_clean(images.float(), 224) / 255
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    state["pos_embed"] = interpolate_positions(state["pos_embed"], 16)
    expected = torch.stack([class_token(state, (image - mean) / std) for image in resized])
    assert 0.05 < expected.std() < 50
    assert (expected[0] - expected[1]).abs().max() > 0.05
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert (extractor.score_name, extractor.feature_dim) == ("fd_dinov2_128", DIM)


def test_positions_are_brought_to_another_grid_as_published(state: State) -> None:
    positions = state["pos_embed"]
    found = interpolate_positions(positions, 16)
    assert torch.equal(found[0, 0], positions[0, 0])
    for y, x in ((0, 0), (3, 9), (15, 15), (15, 0)):
        expected = positions_at(positions, 16, y, x)
        torch.testing.assert_close(found[0, 1 + 16 * y + x], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(interpolate_positions(found, 16), found)


def test_pickle_and_safetensors_give_one_fingerprint(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    fingerprints = {
        build_extractor("dinov2", weights=tmp_path / name).fingerprint
        for name in ("a.pth", "a.safetensors")
    }
    assert len(fingerprints) == 1


def test_without_weights_the_file_is_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"needs a file of weights, got none\. Download dino"
    ):
        build_extractor("dinov2")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=f"{tmp_path}/nowhere.pth is none"):
        load_dinov2(tmp_path / "nowhere.pth")


def test_another_network_is_refused(state: State, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"must hold a DINOv2 ViT .*, got conv1\.weight"):
        load_dinov2(tmp_path / "resnet.pth")
    state["register_tokens"] = torch.zeros(1, 4, DIM)
    torch.save(state, tmp_path / "registers.pth")
    with pytest.raises(CheckpointError, match=r'Unexpected.*"register_tokens".*without registers'):
        load_dinov2(tmp_path / "registers.pth")


def test_timm_is_asked_for(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state, tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", None)
    with pytest.raises(ConfigurationError, match=r'pip install "nacgen\[timm\]"'):
        load_dinov2(tmp_path / "a.pth")
