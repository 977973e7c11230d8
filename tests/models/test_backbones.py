"""Trunks: stages, strides, statistics. Equality with torchvision's is in test_transplant and test_convert."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nacgen.errors import ConfigurationError
from nacgen.models.backbone import Backbone
from nacgen.models.backbones import BACKBONES, build_backbone

CHANNELS = {
    "tiny": (16, 16, 32, 64),
    "resnet18": (64, 64, 128, 256, 512),
    "resnet34": (64, 64, 128, 256, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
    "vgg16_bn": (64, 128, 256, 512, 512),
}
# torchvision's models of these names without their classifiers, millions of parameters
MILLIONS = {"resnet18": 11.177, "resnet34": 21.285, "resnet50": 23.508, "vgg16_bn": 14.723}


def random_images(n: int = 2, size: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def norms_of(trunk: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_have_the_channels_and_strides_they_say(name: str) -> None:
    trunk = build_backbone(name).eval()
    with torch.no_grad():
        maps = trunk(random_images())
        features = trunk.pool(list(maps.values())[-1])
    assert list(maps) == list(trunk.stage_channels) == list(trunk.stages())
    assert tuple(maps[s].shape[1] for s in maps) == CHANNELS[name]
    assert {s: maps[s].shape[1] for s in maps} == trunk.stage_channels
    assert features.shape == (2, trunk.feature_dim) == (2, CHANNELS[name][-1])
    sizes = [x.shape[-1] for x in maps.values()]
    if name == "vgg16_bn":  # the last max-pooling is behind the last map
        assert sizes == [32, 16, 8, 4, 2]
        assert trunk.total_stride == 32
    else:
        assert sizes == [32, 32, 16, 8, 4][: len(sizes)]
        assert trunk.total_stride == 32 // sizes[-1]
    assert all((x >= 0).all() for x in maps.values())  # behind a ReLU


def test_the_standard_stem_is_four_times_as_coarse() -> None:
    trunk = build_backbone("resnet18", "standard").eval()
    with torch.no_grad():
        maps = trunk(random_images(1, 64))
    assert [x.shape[-1] for x in maps.values()] == [32, 16, 8, 4, 2]
    assert trunk.total_stride == 32


@pytest.mark.parametrize("name", MILLIONS)
def test_trunks_are_as_large_as_torchvisions(name: str) -> None:
    stem = "small" if name == "vgg16_bn" else "standard"
    trunk = build_backbone(name, stem)  # type: ignore[arg-type]
    millions = sum(p.numel() for p in trunk.parameters()) / 1e6
    # VGG's classifier is far larger than its convolutions, here without its biases' share
    assert millions == pytest.approx(MILLIONS[name], abs=1e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_belongs_to_one_stage_and_gets_a_gradient(name: str) -> None:
    trunk = build_backbone(name)
    staged = [id(p) for s in trunk.stages().values() for m in s for p in m.parameters()]
    assert sorted(staged) == sorted(id(p) for p in trunk.parameters())
    if name in ("resnet34", "resnet50"):
        return  # of the same blocks as the others
    last = list(trunk(random_images(4)).values())[-1]
    (trunk.pool(last) * torch.randn(trunk.feature_dim)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trunk.parameters())


@pytest.mark.parametrize("name", BACKBONES)
def test_each_convolution_is_paired_with_the_norm_behind_it(name: str) -> None:
    trunk = build_backbone(name)
    pairs = [(getattr(o, c), getattr(o, n)) for o, c, n in trunk.convolution_norm_pairs()]
    convolutions = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert {id(c) for c, _ in pairs} == {id(c) for c in convolutions}
    assert {id(n) for _, n in pairs} == {id(n) for n in norms_of(trunk)}
    assert len(pairs) == len(convolutions)
    assert all(c.out_channels == n.num_features for c, n in pairs)


def test_initialisation_is_hes_and_a_function_of_its_generator() -> None:
    trunk = build_backbone("resnet18")
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):  # variance 2 / fan-out
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
    states = []
    for seed in (1, 1, 2):
        trunk.reset_parameters(torch.Generator().manual_seed(seed))
        states.append(torch.cat([p.detach().flatten() for p in trunk.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_reset_forgets_statistics() -> None:
    trunk = build_backbone("tiny")
    trunk(random_images())
    trunk.reset_parameters()
    for norm in norms_of(trunk):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert (norm.running_mean == 0).all()
        assert (norm.running_var == 1).all()
        assert (norm.weight == 1).all()


@pytest.mark.parametrize(
    ("name", "stem", "message"),
    [
        ("resnet19", "small", r"one of tiny, resnet18, .* or timm:<name>, got 'resnet19'"),
        ("tiny", "large", "stem must be one of small, standard, got 'large'"),
        ("vgg16_bn", "standard", "choice of stems, got stem 'standard' for vgg16_bn"),
    ],
)
def test_trunks_that_cannot_be_are_refused(
    name: str, stem: str, message: str, as_users_run_it: None
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_backbone(name, stem)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stem", "smallest"),
    [("tiny", "small", 4), ("resnet18", "small", 8), ("resnet18", "standard", 32)],
)
def test_images_smaller_than_the_stride_are_refused(name: str, stem: str, smallest: int) -> None:
    trunk: Backbone = build_backbone(name, stem).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        assert list(trunk(random_images(1, smallest)).values())[-1].shape[-1] == 1
    size = smallest - 1
    with pytest.raises(
        ConfigurationError, match=f"at least {smallest} px .* got {size}x{size}. Use larger"
    ):
        trunk(random_images(1, size))


def test_a_trunk_without_stages_cannot_be_made() -> None:
    with pytest.raises(TypeError, match=r"abstract method '?stages'?"):
        Backbone({"stem": 3}, 1)  # type: ignore[abstract]


@pytest.mark.parametrize("name", ["tiny", "resnet50", "vgg16_bn"])
def test_a_trunk_in_channels_last_trains_in_place_and_in_that_format(name: str) -> None:
    """ReLUs and sums overwrite what no gradient needs; pooling hands the last map its own format."""
    called: list[str] = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            called.append(func.__name__)
            return func(*args, **(kwargs or {}))

    trunk = build_backbone(name).to(memory_format=torch.channels_last)
    images = random_images(size=64).contiguous(memory_format=torch.channels_last)
    with Recorder():
        last = list(trunk(images).values())[-1]
    assert called.count("relu_.default") >= 7
    assert not {"relu.default", "add.Tensor"} & set(called)
    (gradient,) = torch.autograd.grad(trunk.pool(last).square().sum(), last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
