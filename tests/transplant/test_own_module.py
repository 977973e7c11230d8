import copy
import math
import threading
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from nacgen.errors import ConfigurationError
from nacgen.models.encoder import NACEncoder
from nacgen.transplant.transplant import transplant
from nacgen.transplant.trunk import fold_batch_norm
from tests.transplant.conftest import eager, images


@pytest.fixture
def encoder() -> NACEncoder:
    return NACEncoder.from_pretrained("checkpoints/digits-nac").eval()


class Own(nn.Module):
    """The encoder's trunk under another name, with a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net, self.head = NACEncoder().backbone, nn.Linear(64, 3)

    def forward(self, normalized: Tensor) -> Tensor:
        return self.head(self.net(normalized)["layer3"].mean((2, 3)))


def chain(*widths: int, kernel: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    pairs = zip((3, *widths), widths, strict=False)
    layers = [(nn.Conv2d(a, b, kernel, padding=kernel // 2), nn.LeakyReLU(0.2)) for a, b in pairs]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


@pytest.fixture(scope="module")
def large_encoder() -> NACEncoder:
    torch.manual_seed(0)
    encoder = NACEncoder("resnet18", "standard", code_dim=4)
    encoder(images(8, 32))  # statistics that are not zero and one
    return encoder.eval()


@pytest.mark.parametrize("match", ["name", "order", {"": ""}])
def test_torchvisions_resnet_is_filled_whole(large_encoder: NACEncoder, match: str) -> None:
    module = torchvision.models.resnet18(num_classes=3)
    part = transplant(large_encoder, module, match=match, image_size=32)  # type: ignore[call-overload]
    assert part.module is module
    assert part.report.untouched == ("fc.weight", "fc.bias")
    assert part.report.probe_difference == 0
    assert part.report.flop_share == pytest.approx(1, abs=1e-3)
    module.eval().fc = nn.Identity()
    with torch.no_grad():
        expected = large_encoder.features(images(2, 32))
        features = module(large_encoder.normalize(images(2, 32)))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_a_dry_run_loads_nothing_and_says_the_same(encoder: NACEncoder) -> None:
    module = Own()
    before = copy.deepcopy(module.state_dict())
    dry = transplant(encoder, module, mode="frozen", image_size=16, dry_run=True)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())
    assert not any(m._forward_pre_hooks for m in module.modules())
    wet = transplant(encoder, module, mode="frozen", image_size=16)
    assert dry.report.loaded == wet.report.loaded
    assert dry.report.probe_difference == wet.report.probe_difference
    assert not torch.equal(before["net.conv1.weight"], module.net.conv1.weight)
    assert "would be loaded" in str(dry.report)
    text = dry.report.to_markdown()
    assert text.startswith("# Dry run of a transplant into Own\n")
    places = ", ".join(f"`net.{part}`" for part in ("conv1", "bn1", "layer1", "layer2", "layer3"))
    assert f"| loaded | 54 | {places.replace('net', 'backbone')} | into {places} |" in text


def test_a_dry_run_tells_why_nothing_fits(encoder: NACEncoder) -> None:
    other = nn.Sequential(nn.Conv2d(3, 16, 4), nn.BatchNorm2d(16))  # the norm alone fits
    reasons = {
        "order": "nothing without a convolution, of which none fits",
        "name": "no tensor of this name in the module",
    }
    for match, reason in reasons.items():
        dry = transplant(encoder, other, match=match, image_size=16, dry_run=True)
        assert dry.report.loaded == {}
        assert dry.report.parameter_share == dry.report.flop_share == 0
        assert dry.report.probe_difference is None
        assert "0 tensors of the encoder would be loaded" in str(dry.report)
        assert f"| {reason} |" in dry.report.to_markdown()
        message = "fit into the module, but by .* none does.*Try another match; with dry_run=True the report gives"
        with pytest.raises(ConfigurationError, match=message):
            transplant(encoder, other, match=match, image_size=16)


def test_what_is_frozen_stays_bit_for_bit_statistics_included(encoder: NACEncoder) -> None:
    module = Own()
    part = transplant(encoder, module, mode="partial", frozen_stages=2, image_size=16)
    before = copy.deepcopy(module.state_dict())
    optimizer = torch.optim.Adam(part.param_groups(1e-2), lr=1e-2)
    for _ in range(2):
        module.train()(images()).square().mean().backward()
        optimizer.step()
    moved = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert {name.split(".")[1] for name in moved if name.startswith("net.")} == {"layer2", "layer3"}
    assert any("running_mean" in name for name in moved)
    whole = Own()
    transplant(encoder, whole, mode="frozen", image_size=16)
    torch.testing.assert_close(whole.train()(images()), whole.eval()(images()))
    before = whole.net.state_dict()
    assert all(torch.equal(v, encoder.backbone.state_dict()[k]) for k, v in before.items())


def test_stages_of_the_encoder_make_the_groups(encoder: NACEncoder) -> None:
    module = Own()
    part = transplant(encoder, module, image_size=16)
    groups = part.param_groups(0.4, trunk_multiplier=0.5, stage_decay=0.5)
    assert [group["lr"] for group in groups] == [0.2, 0.1, 0.05, 0.025, 0.4]
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in module.net.layer3.parameters()}
    assert {id(p) for p in groups[-1]["params"]} == {id(p) for p in module.head.parameters()}


def test_a_module_without_batch_norm_takes_folded_convolutions(encoder: NACEncoder) -> None:
    module = chain(16, 16, 16, 32)
    part = transplant(encoder, module, match="order", image_size=16)
    assert part.report.batch_norm == "fold"
    assert part.report.parameter_share == 1
    x = encoder.normalize(images())
    with torch.no_grad():  # folded: the same as convolution and BatchNorm
        expected = encoder.backbone.bn1(encoder.backbone.conv1(x))
        torch.testing.assert_close(module[0](x), expected, rtol=1e-4, atol=1e-5)
    assert part.report.probe_difference is not None
    assert part.report.probe_difference > 0.1  # a chain is not the residual network


def test_the_probe_measures_where_shapes_meet(encoder: NACEncoder) -> None:
    first = transplant(encoder, chain(16), match="order", image_size=16)
    assert first.report.probe_difference is not None
    assert first.report.probe_difference < 1e-4
    strided = chain(16)
    strided[0].stride = (2, 2)
    report = transplant(encoder, strided, match="order", image_size=16).report
    assert report.probe_difference == math.inf
    for text in (str(report), report.to_markdown()):
        assert "probe difference not comparable (feature maps differ in size)" in text.replace(
            "| ", ""
        )
    unmeasured = transplant(encoder, chain(16), match="order").report
    assert unmeasured.probe_difference is unmeasured.flop_share is None
    assert "| share of FLOPs | not measured |" in unmeasured.to_markdown()


def test_controls_go_into_own_modules_too(encoder: NACEncoder) -> None:
    modules = [Own(), Own()]
    for module, source in zip(modules, ("encoder", "shuffled"), strict=True):
        transplant(encoder, module, source=source, calibration_images=images(16))  # type: ignore[call-overload]
    own, shuffled = (m.net.layer1[0].conv1.weight.flatten() for m in modules)
    assert torch.equal(own.sort().values, shuffled.sort().values)
    assert not torch.equal(own, shuffled)


def test_nothing_matched_is_an_error(encoder: NACEncoder) -> None:
    with pytest.raises(
        ConfigurationError, match=r"by name none does.*; the module has 0\.weight \(8, 3"
    ):
        transplant(encoder, chain(8, kernel=4))


def test_batch_norm_follows_train_again_without_the_hooks(encoder: NACEncoder) -> None:
    module = Own()
    part = transplant(encoder, module, mode="frozen", image_size=16)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(part.hooks) == len(norms)
    module.train()(images())
    assert not any(norm.training for norm in norms)
    part.remove_hooks()
    module.train()(images())
    assert all(norm.training for norm in norms)
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_a_module_without_anything_to_train_has_no_groups(encoder: NACEncoder) -> None:
    frozen = transplant(encoder, chain(16, 16), mode="frozen", match="order")
    with pytest.raises(ConfigurationError, match="all parameters of Sequential are frozen"):
        frozen.param_groups(0.1)


def test_a_module_that_cannot_be_called_is_left_as_it_was(encoder: NACEncoder) -> None:
    class Timed(nn.Sequential):
        def forward(self, images: Tensor, time: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(images) * time

    module = Timed(copy.deepcopy(encoder.backbone.get_submodule("conv1")))
    before = {name: x.clone() for name, x in module.state_dict().items()}
    torch.nn.init.zeros_(encoder.backbone.get_submodule("conv1").weight)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Timed must take .* Nothing was loaded"):
        transplant(encoder, module, match="order", image_size=16)
    assert all(torch.equal(before[name], x) for name, x in module.state_dict().items())
    transplant(encoder, module, match="order")
    assert not torch.equal(before["0.weight"], module.state_dict()["0.weight"])


def test_a_module_that_fails_while_it_is_measured_is_left_as_it_was(encoder: NACEncoder) -> None:
    class One(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) == 1  # all probe images follow the first
            return super().forward(images)

    module = One(*chain(16))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(AssertionError):
        transplant(encoder, module, mode="frozen", match="order", image_size=16)
    assert all(torch.equal(before[name], x) for name, x in module.state_dict().items())
    assert all(p.requires_grad for p in module.parameters())


def test_an_empty_mapping_is_not_the_default(encoder: NACEncoder) -> None:
    with pytest.raises(ConfigurationError, match="by the mapping none does"):
        transplant(encoder, copy.deepcopy(encoder.backbone), match={})


class Tied(nn.Module):
    """Three convolutions, two of which share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))
        self.c.weight = self.b.weight

    def forward(self, normalized: Tensor) -> Tensor:
        return self.c(self.b(self.a(normalized)))


@pytest.mark.parametrize("match", ["order", {"layer1.0.conv1": "b", "layer1.0.conv2": "c"}])
def test_a_shared_weight_is_filled_and_reported_once(encoder: NACEncoder, match: str) -> None:
    module = Tied()
    part = transplant(encoder, module, match=match, image_size=16)  # type: ignore[call-overload]
    places = [place for place in part.report.loaded.values() if "weight" in place]
    assert len(places) == len(set(places))
    skipped = part.report.skipped["backbone.layer1.0.conv2.weight"]
    assert skipped == "its place c.weight is shared with b.weight, which is filled"
    folded = fold_batch_norm(encoder.backbone).get_parameter("layer1.0.conv1.weight")
    assert torch.equal(module.b.weight, folded)


def test_a_weight_is_counted_under_whichever_of_its_names(encoder: NACEncoder) -> None:
    part = transplant(encoder, Tied(), match={"layer1.0.conv2": "c"})  # type: ignore[call-overload]
    assert part.report.loaded["backbone.layer1.0.conv2.weight"] == "b.weight"
    assert "b.weight" not in part.report.untouched


@pytest.mark.parametrize("wrap", [nn.DataParallel, eager])
def test_a_wrapped_module_is_filled_within(
    encoder: NACEncoder, wrap: Any, as_users_run_it: None
) -> None:
    inner, plain = Own(), Own()
    module = wrap(inner)
    part = transplant(encoder, module, mode="partial", image_size=16)  # type: ignore[call-overload]
    expected = transplant(encoder, plain, mode="partial", image_size=16)  # type: ignore[call-overload]
    assert part.module is module
    assert str(part.report) == str(expected.report)
    assert all(
        torch.equal(a, b) for a, b in zip(inner.parameters(), plain.parameters(), strict=True)
    )
    sizes = [[len(group["params"]) for group in p.param_groups(lr=1)] for p in (part, expected)]
    assert sizes[0] == sizes[1]


class Hooked(Own):
    """A module whose `state_dict` has copies of its tensors, under other names."""

    def __init__(self) -> None:
        super().__init__()
        self._register_state_dict_hook(
            lambda _, state, prefix, __: {f"x.{name}": x.clone() for name, x in state.items()}
        )


def test_the_tensors_of_a_module_are_filled_whatever_its_state_dict_shows(
    encoder: NACEncoder,
) -> None:
    module = Hooked()
    part = transplant(encoder, module, image_size=16)  # type: ignore[call-overload]
    assert part.report.probe_difference == 0
    weight = encoder.backbone.get_parameter("conv1.weight")
    assert torch.equal(module.net.get_parameter("conv1.weight"), weight)


def test_what_cannot_be_copied_is_filled_without_a_trial(encoder: NACEncoder) -> None:
    module = Own()
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match=r"module must be such .* leave image_size"):
        transplant(encoder, module, image_size=16)  # type: ignore[call-overload]
    assert transplant(encoder, module).report.loaded  # type: ignore[call-overload]


def test_a_module_of_another_precision_keeps_it(encoder: NACEncoder) -> None:
    module = Own().half()
    part = transplant(encoder, module)  # type: ignore[call-overload]
    assert part.report.loaded
    weight = encoder.backbone.get_parameter("conv1.weight")
    assert torch.equal(module.net.get_parameter("conv1.weight"), weight.half())


@pytest.mark.parametrize(
    "module",
    [lambda: Own().to("meta"), lambda: nn.LazyConv2d(16, 3), lambda: torch.jit.script(chain(16))],
    ids=["meta", "lazy", "scripted"],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_module_without_numbers_is_refused(encoder: NACEncoder, module: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"module must hold numbers in Python, but"):
        transplant(encoder, module(), match="order")  # type: ignore[call-overload]
