import copy

import pytest
import torch

from nacgen.errors import ConfigurationError
from nacgen.models.backbones import BACKBONES, ResNet
from nacgen.models.encoder import NACEncoder
from nacgen.models.transplant import fold_batch_norm, transplant

MODES, SOURCES = ("init", "partial", "frozen"), ("encoder", "random", "shuffled")


def images(count: int = 8, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def encoder() -> NACEncoder:
    torch.manual_seed(0)
    encoder = NACEncoder(code_dim=16)
    encoder.train()
    encoder(images(32))  # statistics that are not zero and one
    return encoder.eval()


@pytest.mark.parametrize("name", list(BACKBONES))
def test_folding_keeps_the_evaluation_mode_function(name: str) -> None:
    torch.manual_seed(0)
    trunk = ResNet(name)
    for _ in range(3):
        trunk(images(4))
    trunk.eval()
    folded = fold_batch_norm(trunk)
    with torch.no_grad():
        for stage, expected in trunk(images(4)).items():
            assert (folded(images(4))[stage] - expected).abs().max() < 1e-4
    assert not list(folded.buffers())


def test_resnet18_is_torchvisions() -> None:
    models = pytest.importorskip("torchvision.models")
    ours, theirs = ResNet("resnet18", "standard").eval(), models.resnet18().eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        features = ours(images(2, 64))["layer4"].mean((2, 3))
        assert torch.allclose(features, theirs(images(2, 64)), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_mode_and_source_judges_images(encoder: NACEncoder, mode: str, source: str) -> None:
    part = transplant(
        encoder,
        mode=mode,  # type: ignore[arg-type]
        source=source,  # type: ignore[arg-type]
        image_size=16,
        calibration_images=images(64),
    )
    assert part.module(images()).shape == ((8, 5) if mode == "frozen" else (8,))
    assert part.report.probe_difference < 1e-4
    with torch.no_grad():
        maps = part.module.trunk(encoder.normalize(images(64)))
    assert 0.1 < maps["layer3"].std() < 10  # folded random weights have a scale too


def test_arms_differ_in_trunk_weights_only(encoder: NACEncoder) -> None:
    states = [
        transplant(
            encoder,
            source=s,
            image_size=16,
            calibration_images=images(),
            seed=3,  # type: ignore[arg-type]
        ).module.state_dict()
        for s in SOURCES
    ]
    for name in states[0]:
        equal = all(torch.equal(states[0][name], other[name]) for other in states[1:])
        assert equal != name.startswith("trunk."), name


def test_frozen_trunk_is_unchanged_by_training_and_lets_gradients_through(
    encoder: NACEncoder,
) -> None:
    part = transplant(encoder, mode="frozen", image_size=16)
    before = copy.deepcopy(part.module.trunk.state_dict())
    optimizer = torch.optim.Adam(part.param_groups(1e-2))
    x = images().requires_grad_()
    for _ in range(2):
        part.module.train()
        optimizer.zero_grad()
        part.module(x).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in part.module.trunk.state_dict().items())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_partial_freezes_the_first_half(encoder: NACEncoder) -> None:
    trunk = transplant(encoder, mode="partial", image_size=16).module.trunk
    trainable = {n.split(".")[0] for n, p in trunk.named_parameters() if p.requires_grad}
    assert trainable == {"layer2", "layer3"}


def test_learning_rates_of_trunk_and_heads(encoder: NACEncoder) -> None:
    groups = transplant(encoder, image_size=16, trunk_lr_multiplier=0.25).param_groups(0.4)
    assert [group["lr"] for group in groups] == [0.1, 0.4]


def test_encoder_is_left_as_it_was(encoder: NACEncoder) -> None:
    before = copy.deepcopy(encoder.state_dict())
    transplant(encoder, source="shuffled", image_size=16, calibration_images=images())
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_discriminator_judges_each_image_alone(encoder: NACEncoder) -> None:
    module = transplant(encoder, image_size=16).module
    with torch.no_grad():
        assert torch.allclose(module(images())[:2], module(images()[:2]), atol=1e-5)


def test_bad_requests_are_named(encoder: NACEncoder, as_users_run_it: None) -> None:
    with pytest.raises(ConfigurationError, match="got 'thaw'"):
        transplant(encoder, mode="thaw", image_size=16)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="calibration_images"):
        transplant(encoder, source="random", image_size=16)
    with pytest.raises(ConfigurationError, match=r"at least 4 px .* got 2x2"):
        transplant(encoder, image_size=2)
