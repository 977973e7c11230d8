"""Arms differ in the encoder's weights alone, and each option changes what it says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.errors import ConfigurationError
from nacgen.flow.options import AlignmentConfig, FlowConfig, NetworkConfig, OptimConfig
from nacgen.flow.presets import PRESETS
from nacgen.models.encoder import NACEncoder
from nacgen.system.randomness import seeded
from nacgen.transplant.alignment import Alignment
from tests.flow.small_flow import build, flat


def alignment_of(**options: Any) -> Alignment:
    alignment = build(**options)[0].alignment
    assert alignment is not None
    return alignment


def test_arms_share_all_but_the_targets_weights() -> None:
    images = to_float(load_dataset("digits").read(torch.arange(4)))
    arms = {align: build(align=align)[0] for align in ("none", "nac", "random", "shuffled")}
    starts = [flat(update.denoiser.parameters()) for update in arms.values()]
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert arms.pop("none").alignment is None
    projectors = [flat(update.modules["alignment"].parameters()) for update in arms.values()]
    assert all(torch.equal(each, projectors[0]) for each in projectors)
    targets = [u.alignment.target(images) for u in arms.values() if u.alignment is not None]
    for i, one in enumerate(targets):
        assert all((one - other).abs().mean() > 0.1 for other in targets[:i])


@pytest.mark.slow  # the import of diffusers
@pytest.mark.parametrize(("kind", "channels"), [("unet", (64, 64)), ("dit", (64,))])
def test_networks_of_diffusers_are_trained_and_aligned(
    kind: Any, channels: tuple[int, ...]
) -> None:
    network = NetworkConfig(kind=kind, channels=channels, num_blocks=2)
    update, stream, _ = build(network=network)
    before = flat(update.denoiser.parameters())
    logs = [update.update(stream.batch(0)) for _ in range(20)]
    for name in ("loss_flow", "loss_alignment"):
        assert logs[-1][name] < 0.95 * logs[0][name], name
    assert not torch.equal(flat(update.denoiser.parameters()), before)


def test_encoders_of_other_methods_are_given_by_path(tmp_path: Path) -> None:
    with seeded(1, "test"):
        NACEncoder(code_dim=8).save_pretrained(tmp_path / "simclr")
    images = to_float(load_dataset("digits").read(torch.arange(4)))
    other = alignment_of(align="simclr", encoder=str(tmp_path / "simclr"))
    assert not torch.allclose(other.target(images), alignment_of().target(images))


def test_the_average_has_no_hook_and_is_the_denoisers_start() -> None:
    update = build()[0]
    assert torch.equal(flat(update.ema.module.parameters()), flat(update.denoiser.parameters()))
    hooks = [len(m._forward_hooks) for m in update.averaged_denoiser.modules()]
    assert sum(hooks) == 0
    assert sum(len(m._forward_hooks) for m in update.denoiser.modules()) == 1


def test_lengths_that_are_not_given_are_a_twentieth_of_the_run() -> None:
    config = FlowConfig(total_images=12_800)
    assert (config.warmup_images, config.ema_half_life) == (640, 640)
    given = FlowConfig(optim=OptimConfig(warmup_images=0, ema_half_life=5.0))
    assert (given.warmup_images, given.ema_half_life) == (0, 5.0)


def test_the_weight_falls_to_nothing_at_its_share_of_training() -> None:
    config = FlowConfig(total_images=12_800, alignment=AlignmentConfig(weight=0.3, until=0.5))
    seen = (0, 6_272, 6_400, 12_672)
    assert [config.alignment_weight(each) for each in seen] == [0.3, 0.3, 0, 0]
    assert FlowConfig(total_images=12_800).alignment_weight(12_672) == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            lambda: AlignmentConfig(weight=0.0),
            "weight must be above 0, got 0.0. Change --alignment",
        ),
        (lambda: AlignmentConfig(until=1.5), "until must be between 0 and 1, got 1.5"),
        (lambda: NetworkConfig(dropout=1.0), "dropout must be between 0 and 0.9, got 1.0"),
        (lambda: NetworkConfig(channels=()), r"channels must be above 0, got \(\)"),
        (lambda: OptimConfig(learning_rate=0.0), "learning_rate must be above 0, got 0.0"),
        (lambda: OptimConfig(warmup_images=-1), "warmup_images must be 0 or more, got -1"),
        (lambda: build(align="nac", encoder="no/such"), "no/such"),
    ],
)
def test_values_that_cannot_be_used_are_refused(options: Any, message: str) -> None:
    with pytest.raises((ConfigurationError, FileNotFoundError), match=message):
        options()


def test_an_unknown_stage_lists_those_of_the_encoder() -> None:
    with pytest.raises(
        ConfigurationError, match="stage must be one of stem, layer1, layer2, layer3, got 'layer9'"
    ):
        build(stage="layer9")


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_a_missing_package_is_told_before_anything_is_built(
    network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacgen.system.places.find_spec", lambda name: None)
    config = FlowConfig(network=NetworkConfig(kind=network))
    with pytest.raises(ConfigurationError, match=f"network {network} needs diffusers"):
        config.check_inputs()
    FlowConfig().check_inputs()


def test_presets_can_be_parsed_by_their_names() -> None:
    names = ["digits", "cifar10-small", "fashion-mnist", "cifar10", "folder", "smoke"]
    assert list(PRESETS) == names
    cifar = PRESETS["cifar10"]
    assert (cifar.total_images // cifar.batch_size, cifar.network.dropout) == (400_000, 0.1)
    assert cifar.warmup_images // cifar.batch_size == 5_000
    assert 0.5 ** (cifar.batch_size / cifar.ema_half_life) == pytest.approx(0.9999, abs=1e-7)
