import copy

import pytest
import torch

from nacgen.models.backbones import BACKBONES, build_backbone
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.transplant import transplant
from nacgen.transplant.trunk import fold_batch_norm, stage_parameters
from tests.transplant.conftest import images


@pytest.mark.parametrize("name", list(BACKBONES))
def test_folding_keeps_the_evaluation_mode_function(name: str) -> None:
    torch.manual_seed(0)
    trunk = build_backbone(name)
    batch = torch.nn.functional.interpolate(images(4), size=trunk.total_stride * 2)
    for _ in range(3):
        trunk(batch)
    trunk.eval()
    folded = fold_batch_norm(trunk)
    with torch.no_grad():
        for stage, expected in trunk(batch).items():
            error = (folded(batch)[stage] - expected).abs().max()
            assert error < 1e-4 * expected.abs().max().clamp_min(1)
    assert not list(folded.buffers())


@pytest.mark.parametrize("batch_norm", ["freeze", "train"])
def test_batch_norm_may_stay(encoder: NACEncoder, batch_norm: str) -> None:
    """Frozen stages and frozen statistics stay through `train()`; what trains follows the batch."""
    part = transplant(encoder, mode="partial", image_size=16, batch_norm=batch_norm)  # type: ignore[arg-type]
    before = copy.deepcopy(part.module.trunk.state_dict())
    together = part.module.eval()(images())[:2]
    assert torch.allclose(together, part.module(images()[:2]), atol=1e-5)
    together = part.module.train()(images())[:2]
    alone = torch.allclose(together, part.module(images()[:2]), atol=1e-5)
    assert alone == (batch_norm == "freeze")
    moved = {
        name.split(".")[1]
        for name, value in part.module.trunk.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == (set() if batch_norm == "freeze" else {"layer2", "layer3"})
    assert part.report.probe_difference == 0


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_parameter_belongs_to_one_stage(name: str) -> None:
    backbone = build_backbone(name)
    names = [name for stage in stage_parameters(backbone).values() for name in stage]
    assert sorted(names) == sorted(name for name, _ in backbone.named_parameters())


def test_input_is_normalised_as_the_encoder_does(encoder: NACEncoder) -> None:
    encoder.mean.copy_(torch.rand(3, 1, 1))
    trunk = transplant(encoder, image_size=16, batch_norm="freeze").module.trunk
    for stage, expected in encoder.feature_maps(images()).items():
        torch.testing.assert_close(trunk(images())[stage], expected)
