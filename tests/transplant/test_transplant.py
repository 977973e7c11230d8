import copy
from typing import Any

import pytest
import torch
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.prune import l1_unstructured
from torch.optim.swa_utils import AveragedModel
from torchvision import models

from nacgen.data.pixels import to_uint8
from nacgen.errors import CheckpointError, ConfigurationError, DataError
from nacgen.models.backbone import Backbone
from nacgen.models.backbones import ResNet
from nacgen.models.encoder import NACEncoder
from nacgen.models.gan import Generator
from nacgen.models.sngan import SNGANDiscriminator
from nacgen.transplant import prepare
from nacgen.transplant.transplant import transplant
from nacgen.transplant.trunk import fold_batch_norm
from tests.launch import python
from tests.transplant.conftest import eager, images

MODES, SOURCES = ("init", "partial", "frozen"), ("encoder", "random", "shuffled")


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_are_torchvisions(name: str) -> None:
    ours, theirs = ResNet(name, "standard").eval(), getattr(models, name)().eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        features = ours(images(2, 64))["layer4"].mean((2, 3))
        assert torch.allclose(features, theirs(images(2, 64)), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_mode_and_source_gives_logits(encoder: NACEncoder, mode: str, source: str) -> None:
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
        maps = part.module.trunk(images(64))
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
        assert equal != name.startswith("trunk.backbone."), name


def test_partial_freezes_the_first_half(encoder: NACEncoder) -> None:
    trunk = transplant(encoder, mode="partial", image_size=16).module.trunk.backbone
    trainable = {n.split(".")[0] for n, p in trunk.named_parameters() if p.requires_grad}
    assert trainable == {"layer2", "layer3"}


def test_the_middle_of_an_odd_number_of_stages_is_frozen() -> None:
    part = transplant(NACEncoder("resnet18", code_dim=8), mode="partial", image_size=16)
    frozen = {
        n.split(".")[1] for n, p in part.module.trunk.named_parameters() if not p.requires_grad
    }
    assert frozen == {"conv1", "layer1", "layer2"}  # of five stages


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_train_is_in_no_group(encoder: NACEncoder, mode: str) -> None:
    part = transplant(encoder, mode=mode, image_size=16)  # type: ignore[arg-type]
    grouped = [id(p) for group in part.param_groups(0.1) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in part.module.parameters() if p.requires_grad)


def test_learning_rates_of_stages_and_heads(encoder: NACEncoder) -> None:
    part = transplant(encoder, mode="partial", image_size=16)
    groups = part.param_groups(
        0.4,
        trunk_multiplier=0.25,
        stage_decay=0.5,
        start_images=100,
        unfreeze_every=50,
        ramp_images=10,
    )
    times = [(g["lr"], g["start_images"], g["ramp_images"]) for g in groups]
    assert times == [(0.1, 100, 10), (0.05, 150, 10), (0.4, 0, 0)]  # layer3, layer2, head
    sizes = [sum(p.numel() for p in group["params"]) for group in groups]
    backbone = part.module.trunk.backbone
    stages = [backbone.get_submodule(name).parameters() for name in ("layer3", "layer2")]
    parameters = [*stages, part.module.heads.parameters()]
    assert sizes == [sum(p.numel() for p in group) for group in parameters]
    assert torch.optim.Adam(groups).param_groups[1]["start_images"] == 150


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("trunk_multiplier", -1.0, "above 0"),
        ("stage_decay", float("nan"), "above 0"),
        ("start_images", -1, "0 or more"),
        ("unfreeze_every", -1, "0 or more"),
        ("ramp_images", -5, "0 or more"),
    ],
)
def test_groups_refuse_numbers_without_a_meaning(
    encoder: NACEncoder, name: str, value: float, bound: str
) -> None:
    part = transplant(encoder, image_size=16)
    with pytest.raises(ConfigurationError, match=f"{name} must be a number {bound}, got {value}"):
        part.param_groups(0.1, **{name: value})  # type: ignore[arg-type]


def test_encoder_is_left_as_it_was(encoder: NACEncoder) -> None:
    before = copy.deepcopy(encoder.state_dict())
    transplant(encoder, source="shuffled", image_size=16, calibration_images=images())
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_the_probe_is_compared_in_plain_float32(encoder: NACEncoder) -> None:
    expected = transplant(encoder, image_size=16).report.probe_difference
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert transplant(encoder, image_size=16).report.probe_difference == expected


def test_the_probe_is_compared_relative_to_the_features(encoder: NACEncoder) -> None:
    with torch.no_grad():
        for norm in encoder.backbone.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.weight.mul_(30)
    with torch.no_grad():
        last = encoder.feature_maps(images())["layer3"]
    assert last.max() > 1e4
    assert transplant(encoder, image_size=16).report.probe_difference < 1e-5


def test_a_trunk_that_is_not_the_encoder_is_refused(
    encoder: NACEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(trunk: Backbone) -> Backbone:
        folded = fold_batch_norm(trunk)
        with torch.no_grad():
            folded.get_parameter("conv1.bias").add_(0.01)
        return folded

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "fold_batch_norm", careless)
        with pytest.raises(CheckpointError, match=r"within 0\.0001 .* differs by \d"):
            transplant(encoder, image_size=16)
    with torch.no_grad():
        encoder.get_parameter("backbone.conv1.weight")[0] = float("nan")
    with pytest.raises(CheckpointError, match="differs by nan on the probe images"):
        transplant(encoder, image_size=16)


@pytest.mark.gpu
@pytest.mark.parametrize("source", SOURCES)
def test_an_encoder_on_a_gpu_gives_the_same_discriminator_there(
    encoder: NACEncoder, source: str
) -> None:
    options = {"source": source, "image_size": 16, "calibration_images": images()}
    expected = transplant(encoder, **options).module.state_dict()
    module = transplant(encoder.cuda(), **options).module
    assert module(images().cuda()).device.type == "cuda"
    for name, value in module.state_dict().items():
        assert torch.equal(value.cpu(), expected[name]), name


def test_the_encoder_may_lie_elsewhere(
    encoder: NACEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: whatever the device, the work is done on a copy on the CPU."""
    moved = []
    cpu = NACEncoder.cpu
    monkeypatch.setattr(NACEncoder, "cpu", lambda self: moved.append(self) or cpu(self))
    transplant(encoder, source="random", image_size=16, calibration_images=images())
    assert len(moved) == 1
    assert moved[0] is not encoder


def test_logits_depend_on_their_own_image_alone(encoder: NACEncoder) -> None:
    module = transplant(encoder, image_size=16).module
    with torch.no_grad():
        assert torch.allclose(module(images())[:2], module(images()[:2]), atol=1e-5)


def test_bad_requests_are_named(encoder: NACEncoder, as_users_run_it: None) -> None:
    with pytest.raises(ConfigurationError, match="calibration_images"):
        transplant(encoder, source="random", image_size=16)
    for options, message in (
        ({"image_size": 2}, r"at least 4 px .* got 2x2"),
        ({"image_size": -1}, "image_size must be a number of pixels, got -1"),
        ({"image_size": "16"}, "image_size must be a number of pixels, got '16'"),
        ({"mode": "thaw"}, "mode must be one of init, partial, frozen, got 'thaw'"),
        ({"mode": ""}, "mode must be one of .* got ''"),
        ({"source": "noise"}, "source must be one of encoder, random, shuffled, got 'noise'"),
        ({"return_nodes": ["layer7"]}, "among stem, .* got layer7"),
        ({"head": "deep"}, "head must be one of linear, basis, .* got 'deep'"),
        ({"frozen_stages": 2}, "belongs to mode partial, got 2 in mode init"),
        ({"frozen_stages": 9, "mode": "partial"}, "0 to 4 of stem, .* got 9"),
        ({"spectral_norm": "trunk"}, "one of none, heads, cap, got 'trunk'"),
        ({"batch_norm": "drop"}, "one of fold, freeze, train, got 'drop'"),
        ({"mode": "frozen", "batch_norm": "train"}, "got batch_norm 'train'"),
        ({"into": "vae_encoder", "latent_dim": 0}, "one or more, got 0"),
        ({"calibration_images": images(size=8)}, "image_size, 16 px, got 8x8"),
        ({"calibration_images": images() * 2}, r"floats in \[-1, 1\], got .* from -2 to"),
        ({"into": ["discriminator"]}, r"into must be a module or .* got \['discriminator'\]"),
        ({"into": "generator"}, "into must be a module or one of disc.*, got 'generator'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            transplant(encoder, **{"image_size": 16, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r'\(into="discriminator"\) needs encoder, image_size, got no image_size\. Give ima'),
        ({"image_sise": 16}, r"got 'image_sise'\. Did you mean image_size\?"),
        ({"image_size": 16, "latent_dim": 4}, "takes encoder, image_size, .* got 'latent_dim'"),
        ({"image_size": 16, "match": "name"}, "got 'match'"),
        ({"into": "vae_encoder", "image_size": 16}, "vae_encoder.* got no latent_dim"),
        ({"into": "alignment", "layer": "x"}, "got no model and no image_size"),
        ({"into": "perceptual", "mode": "init"}, "got 'mode'"),
        ({"into": torch.nn.Identity(), "head": "basis"}, "into a module takes .* got 'head'"),
    ],
)
def test_options_that_a_target_lacks_or_needs_are_named(
    encoder: NACEncoder, as_users_run_it: None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        transplant(encoder, **options)


def test_the_old_name_of_return_nodes_warns(encoder: NACEncoder) -> None:
    with pytest.warns(DeprecationWarning, match="now called return_nodes"):
        part = transplant(encoder, image_size=16, taps=["layer1"])
    assert part.module.return_nodes == ("layer1",)


def test_the_package_of_the_same_name_does_not_hide_the_function() -> None:
    program = "import nacgen.transplant.trunk; import nacgen; nacgen.transplant(None, into='flow')"
    done = python("-c", program)
    assert "into must be a module or one of discriminator" in done.stderr


@pytest.mark.parametrize(
    "wrap", [torch.nn.DataParallel, AveragedModel, eager, torch.nn.Module.half]
)
def test_wrapped_encoders_and_those_of_another_precision_work(
    encoder: NACEncoder, wrap: Any, as_users_run_it: None
) -> None:
    right = transplant(encoder, image_size=16).module(images())
    got = transplant(wrap(copy.deepcopy(encoder)), image_size=16).module(images())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, right, rtol=0.01, atol=0.01)


def test_the_default_dtype_changes_nothing(encoder: NACEncoder) -> None:
    right = transplant(encoder, image_size=16).module(images())
    torch.set_default_dtype(torch.float64)
    try:
        part = transplant(encoder, image_size=16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(part.module(images()), right)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("checkpoints/digits-nac", "got 'checkpoints/digits-nac'. .* NACEncoder.from_pretrained"),
        (models.resnet18(), r"got a ResNet\. .* weights with nacgen convert\."),
        (None, "got a NoneType"),
        (NACEncoder().to("meta"), "encoder must hold numbers .* the meta device"),
    ],
)
def test_what_is_no_encoder_is_called_what_it_is(
    other: Any, message: str, as_users_run_it: None
) -> None:
    for into in ("discriminator", torch.nn.Conv2d(3, 16, 3)):
        with pytest.raises(ConfigurationError, match=message):
            transplant(other, into, **({"image_size": 16} if into == "discriminator" else {}))


@pytest.mark.parametrize("into", ["discriminator", "vae_encoder", "perceptual"])
def test_parts_refuse_what_cannot_be_their_images(
    encoder: NACEncoder, into: str, as_users_run_it: None
) -> None:
    sizes = {
        "discriminator": {"image_size": 16},
        "vae_encoder": {"image_size": 16, "latent_dim": 2},
    }
    module = transplant(encoder, into, **sizes.get(into, {})).module
    others = (images(),) if into == "perceptual" else ()
    module(images() * 4, *others)  # augmented ones leave [-1, 1]
    wrong = [(to_uint8(images()), "got torch.uint8"), (images() * 127 + 128, "got .* to 25")]
    wrong += [([*images()], "got a list"), (images().permute(0, 2, 3, 1), r"got \(8, 16, 16, 3\)")]
    if into != "perceptual":
        wrong.append((images(8, 32), r"16x16 px, got 32x32\. Resize them"))
    for pixels, message in wrong:
        with pytest.raises(DataError, match=message):
            module(pixels, *(pixels for _ in others))


def test_images_of_two_sizes_have_no_distance(encoder: NACEncoder, as_users_run_it: None) -> None:
    distance = transplant(encoder, "perceptual").module
    with pytest.raises(DataError, match=r"one size, got \(8, 3, 16, 16\) and \(8, 3, 32, 32\)"):
        distance(images(), images(8, 32))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([1]), r"int64 \(2,\) from 0 to 9, got torch\.int64 \(1,\)\. Convert"),
        (torch.tensor([1, 10]), "got 1 to 10"),
        (torch.tensor([-1, 0]), "got -1 to 0"),
        (torch.eye(10)[:2], r"got torch\.float32 \(2, 10\)"),
        ([1, 2], "got a list"),
    ],
)
def test_what_are_no_classes_is_refused(
    encoder: NACEncoder, labels: Any, message: str, as_users_run_it: None
) -> None:
    parts = (
        transplant(encoder, image_size=16, num_classes=10).module,
        SNGANDiscriminator(num_classes=10),
    )
    for module in parts:
        with pytest.raises(ConfigurationError, match=message):
            module(images(2), labels)
    with pytest.raises(ConfigurationError, match=message):
        Generator(num_classes=10)(torch.zeros(2, 128), labels)


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        (images(8).numpy(), DataError, "calibration_images must be .* got a ndarray"),
        (images(0), ConfigurationError, "got torch.float32 without pixels"),
        (images(8).to("meta"), ConfigurationError, "got torch.float32 without pixels"),
        (images(8)[0], DataError, r"calibration_images must be .* got \(3, 16, 16\)"),
    ],
)
def test_calibration_needs_images(
    encoder: NACEncoder,
    calibration: Any,
    error: type[Exception],
    message: str,
    as_users_run_it: None,
) -> None:
    with pytest.raises(error, match=message):
        transplant(encoder, image_size=16, calibration_images=calibration)


def test_synchronized_batch_norm_is_frozen_too(encoder: NACEncoder) -> None:
    encoder.backbone = encoder.backbone.synchronized()
    module = transplant(encoder, image_size=16, batch_norm="freeze").module.train()
    norms = [part for part in module.modules() if isinstance(part, torch.nn.SyncBatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)


def test_an_encoder_that_was_changed_works_or_says_why_not(encoder: NACEncoder) -> None:
    larger = copy.deepcopy(encoder)
    larger.classifier = torch.nn.Linear(64, 3)
    report = transplant(larger, image_size=16).report
    assert report.skipped["classifier.weight"] == "no part of the trunk"
    normed, pruned = copy.deepcopy(encoder), copy.deepcopy(encoder)
    weight_norm(normed.backbone.conv1)
    with pytest.raises(ConfigurationError, match=r"conv1 is parametrized, .* batch_norm 'freeze'"):
        transplant(normed, image_size=16)
    assert transplant(normed, image_size=16, batch_norm="freeze").report.probe_difference == 0
    l1_unstructured(pruned.backbone.conv1, "weight", 0.5)
    with pytest.raises(
        ConfigurationError, match=r"encoder must be such that copy\.deepcopy copies"
    ):
        transplant(pruned, image_size=16)


def test_one_stage_may_be_named_by_a_string(encoder: NACEncoder, as_users_run_it: None) -> None:
    nodes = ("layer2", iter(["layer2"]))
    modules = [transplant(encoder, image_size=16, return_nodes=n).module for n in nodes]
    assert all(module.return_nodes == ("layer2",) for module in modules)
