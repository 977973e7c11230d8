"""Models of timm as trunks; small ones, freshly initialised: nothing is downloaded."""

import copy
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from nacgen.errors import ConfigurationError
from nacgen.models.backbones import build_backbone
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.own_module import into_module

SWIN = "timm:swin_tiny_patch4_window7_224"


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_saved_resnet_goes_into_timm_after_dropping_one_prefix(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = NACEncoder("resnet50", stem="standard", code_dim=4)
    encoder(images())  # statistics that are not zero and one
    encoder.save_pretrained(tmp_path / "encoder")
    encoder = NACEncoder.from_pretrained(tmp_path / "encoder")
    tensors = {
        name.removeprefix("backbone."): tensor
        for name, tensor in encoder.state_dict().items()
        if name.startswith("backbone.")
    }
    theirs = timm.create_model("resnet50", num_classes=0).eval()
    theirs.load_state_dict(tensors)
    with torch.no_grad():
        expected = theirs(encoder.normalize(images()))
        torch.testing.assert_close(encoder.features(images()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "feature_dim"),
    [("mobilenetv3_small_050", 64, 288), ("swin_tiny_patch4_window7_224", 224, 768)],
)
def test_a_model_of_timm_trains_codes_and_comes_back_from_its_folder(
    name: str, size: int, feature_dim: int, tmp_path: Path
) -> None:
    encoder = NACEncoder(f"timm:{name}", code_dim=4)
    maps = encoder.feature_maps(images(size))
    assert list(maps)[:2] == ["stem", "layer1"]
    for stage, channels in encoder.backbone.stage_channels.items():
        assert maps[stage].shape[:2] == (2, channels)  # also where timm has channels last
    assert maps[list(maps)[-1]].shape[-1] == size // encoder.backbone.total_stride
    assert encoder.features(images(size)).shape == (2, encoder.feature_dim) == (2, feature_dim)
    encoder(images(size))[0].pow(3).sum().backward()
    assert all(p.grad is not None for p in encoder.backbone.parameters())
    encoder.eval().save_pretrained(tmp_path / "encoder")
    loaded = NACEncoder.from_pretrained(tmp_path / "encoder")
    with torch.no_grad():
        assert torch.equal(loaded.features(images(size)), encoder.features(images(size)))


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "resnet18"])
def test_norms_over_all_processes_change_no_value(name: str) -> None:
    """timm's norms hold an activation, which torch's own conversion drops."""
    trunk = build_backbone(name)
    trunk(images())
    trunk.eval()
    alone = copy.deepcopy(trunk)
    together = trunk.synchronized()
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in together.modules())
    with torch.no_grad():
        for expected, found in zip(
            alone(images()).values(), together(images()).values(), strict=True
        ):
            torch.testing.assert_close(found, expected)


def test_what_a_model_of_timm_cannot_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"timm:resnet0 must be .* Unknown model"):
        build_backbone("timm:resnet0")
    with pytest.raises(ConfigurationError, match="takes images of 224x224 px only, got 64x64"):
        NACEncoder(SWIN, code_dim=4).features(images())
    trunk = build_backbone("timm:mobilenetv3_small_050")
    with pytest.raises(ConfigurationError, match=r"at least 32 px .* got 16x16"):
        trunk(images(16))
    encoder = NACEncoder("timm:mobilenetv3_small_050", code_dim=4)
    for ask in (trunk.stages, lambda: into_module(encoder, torch.nn.Conv2d(3, 8, 3))):
        with pytest.raises(ConfigurationError, match="not transplanted into a discriminator"):
            ask()
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not there
    with pytest.raises(ConfigurationError, match=r"need timm, .*pip install"):
        build_backbone("timm:resnet18")
