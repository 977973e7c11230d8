"""Foreign checkpoints against the networks that they come from, built here with torchvision."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.models.convert import ConversionReport, convert_state_dict
from nacgen.models.encoder import NACEncoder
from nacgen.models.foreign import read_foreign

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
Tensors = dict[str, Tensor]


def resnet(name: str, small_stem: bool = False) -> ResNet:
    """A torchvision network whose BatchNorms are not at their initialisation."""
    torch.manual_seed(0)
    network: ResNet = getattr(torchvision.models, name)(weights=None)
    if small_stem:
        network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return randomized(network)


def randomized(network: Any) -> Any:
    for name, tensor in network.state_dict().items():
        if "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1:
            tensor.uniform_(-0.2, 0.2)
    return network.eval()


def images(size: int = 32) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalized(pixels: Tensor) -> Tensor:
    """As the foreign network saw them, written with torchvision."""
    return torchvision.transforms.functional.normalize((pixels + 1) / 2, list(MEAN), list(STD))


def convert(tensors: Tensors, **options: Any) -> tuple[NACEncoder, ConversionReport]:
    return convert_state_dict(tensors, **{"mean": MEAN, "std": STD, **options})


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def as_sequential(network: ResNet, drop: tuple[type, ...] = (nn.Linear,)) -> nn.Sequential:
    return nn.Sequential(*(m for m in network.children() if not isinstance(m, drop))).eval()


def assert_same_features(encoder: NACEncoder, network: nn.Module, size: int = 32) -> None:
    with torch.no_grad():
        expected = network(normalized(images(size))).flatten(1)
        torch.testing.assert_close(encoder.features(images(size)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("small_stem", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_torchvision_resnets_give_the_same_features(name: str, small_stem: bool) -> None:
    network = resnet(name, small_stem)
    tensors = network.state_dict() | {"fc.weight": torch.ones(5, 9), "fc.bias": torch.ones(5)}
    encoder, report = convert(tensors)
    assert (report.backbone, report.stem) == (name, "small" if small_stem else "standard")
    assert_same_features(encoder, network)
    assert {name for name, _ in report.left} == {"fc.weight", "fc.bias"}
    assert len(report.moved) == len(network.state_dict())


def test_vgg_with_batch_norm_gives_the_same_features() -> None:
    torch.manual_seed(0)
    network = torchvision.models.vgg16_bn(weights=None)
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d((1, 1)), nn.Identity()
    randomized(network)
    for prefix in ("", "encoder."):
        encoder, report = convert(under(prefix, network.state_dict()))
        assert (report.backbone, report.prefix) == ("vgg16_bn", prefix)
    assert_same_features(encoder, network)


@pytest.mark.parametrize(
    "prefix", ["backbone.", "module.encoder_q.", "convnet.", "model.backbone."]
)
def test_any_prefix_is_found(prefix: str) -> None:
    network = resnet("resnet18", small_stem=True)
    others = {"projector.0.weight": torch.ones(3, 3), "classifier.weight": torch.ones(2, 2)}
    encoder, report = convert(under(prefix, network.state_dict()) | others)
    assert report.prefix == prefix
    assert dict(report.left) == dict.fromkeys(others, "no part of the trunk")
    assert_same_features(encoder, network)


def test_a_sequential_as_lightly_saves_it_is_renumbered() -> None:
    network = resnet("resnet18")
    trunk = as_sequential(network)  # 0 conv1, 1 bn1, 2 relu, 3 maxpool, 4 to 7 stages
    head = {"projection_head.layers.0.weight": torch.ones(3, 3)}
    encoder, report = convert(under("backbone.", trunk.state_dict()) | head)
    moved = dict(report.moved)
    assert moved["backbone.4.0.conv1.weight"] == "backbone.layer1.0.conv1.weight"
    assert moved["backbone.7.1.bn2.bias"] == "backbone.layer4.1.bn2.bias"
    assert_same_features(encoder, network)


def test_a_sequential_without_relu_and_with_shortcuts_is_renumbered() -> None:
    network = resnet("resnet18", small_stem=True)
    trunk = as_sequential(network, (nn.Linear, nn.Identity, nn.ReLU))  # 0, 1, then 2 to 5
    tensors = {k.replace("downsample", "shortcut"): v for k, v in trunk.state_dict().items()}
    encoder, report = convert(under("backbone.", tensors))
    assert dict(report.moved)["backbone.3.0.shortcut.1.weight"].endswith(
        "layer2.0.downsample.1.weight"
    )
    assert_same_features(encoder, network)


class AuthorsModel(nn.Module):
    """The NAC authors' model as their paper describes it, for its names and its outputs."""

    def __init__(self, code_dim: int, has_posterior: bool = True) -> None:
        super().__init__()
        trunk = resnet("resnet50", small_stem=True)
        self.encoder = as_sequential(trunk, (nn.Linear, nn.Identity))
        self.head = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU())
        self.linear = nn.Sequential(nn.Linear(2048, code_dim))
        if has_posterior:
            self.prediction = nn.Sequential(
                nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, code_dim)
            )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(pixels).flatten(1)
        code, posterior = self.linear(self.head(features)), self.prediction(features)
        return code / code.shape[1] ** 0.5, posterior / posterior.shape[1] ** 0.5


def test_the_authors_model_keeps_its_codes_and_its_posterior() -> None:
    torch.manual_seed(0)
    model = AuthorsModel(code_dim=24).eval()
    encoder, report = convert(model.state_dict(), flip_probability=0.4)
    with torch.no_grad():
        expected = model(normalized(images()))
        for value, wanted in zip(encoder(images()), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
    assert report.has_codes
    assert (report.left, report.filled) == ((), ())
    assert len(report.moved) == len(model.state_dict())
    assert (encoder.code_dim, encoder.flip_probability) == (24, 0.4)
    assert "Codes are the authors'; the flip probability 0.4" in encoder.model_card()


def test_the_authors_simclr_run_leaves_its_projection_head() -> None:
    tensors = AuthorsModel(code_dim=24, has_posterior=False).state_dict()
    encoder, report = convert(tensors, code_dim=16)
    assert not report.has_codes
    assert encoder.code_dim == 16
    assert len(report.left) == 4
    assert {reason for _, reason in report.left} == {"projection head of a run without codes"}


def test_incomplete_heads_are_an_error() -> None:
    tensors = AuthorsModel(code_dim=8).state_dict()
    del tensors["prediction.2.bias"]
    with pytest.raises(CheckpointError, match=r"8 tensors, but prediction\.2\.bias are missing"):
        convert(tensors)


def test_without_heads_report_and_card_say_that_codes_mean_nothing() -> None:
    encoder, report = convert(resnet("resnet18").state_dict(), code_dim=16)
    for text in (str(report), encoder.model_card()):
        assert "codes mean nothing until the encoder is trained" in text
    initialized = {name for name, value in report.filled if value == "initialisation"}
    assert initialized == {name for name in encoder.state_dict() if name.startswith("code_head")}
    assert "licence is that of their source" in encoder.model_card()
    again, _ = convert(resnet("resnet18").state_dict(), code_dim=16)
    assert torch.equal(again.code_logits(images()), encoder.code_logits(images()))


def test_the_report_has_a_line_for_every_tensor() -> None:
    tensors = resnet("resnet18").state_dict() | {"fc.weight": torch.ones(2, 2)}
    _, report = convert(tensors, source="weights.pth")
    lines = str(report).splitlines()
    assert lines[0] == "weights.pth: resnet18, standard stem, under ''"
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in tensors)
    assert "  fc.weight -- no part of the trunk" in lines
    assert "note: The source does not say how images were normalized" in str(report)


def test_a_converted_encoder_is_a_folder_like_any_other(tmp_path: Path) -> None:
    network = resnet("resnet18", small_stem=True)
    encoder, _ = convert(network.state_dict())
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = NACEncoder.from_pretrained(tmp_path / "encoder")
    assert type(loaded) is NACEncoder
    assert torch.equal(loaded.features(images()), encoder.features(images()))
    assert "Converted encoder: resnet18" in (tmp_path / "encoder" / "README.md").read_text()
    assert_same_features(loaded, network)


def test_missing_counters_are_filled_and_reported() -> None:
    network = resnet("resnet18")
    tensors = {k: v for k, v in network.state_dict().items() if not k.endswith("_tracked")}
    encoder, report = convert(tensors)
    assert sum(value == "0" for _, value in report.filled) == 20
    assert_same_features(encoder, network)


def test_half_precision_is_widened() -> None:
    network = resnet("resnet18").half()
    encoder, _ = convert(network.state_dict())
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert_same_features(encoder, network.float())


def test_a_missing_or_misshapen_tensor_is_an_error() -> None:
    tensors = resnet("resnet18").state_dict()
    damaged = {k: v for k, v in tensors.items() if k != "layer3.0.bn1.running_var"}
    with pytest.raises(
        CheckpointError,
        match=r"differs in 1 tensors: layer3\.0\.bn1\.running_var: missing there, \(256,\) in resnet18",
    ):
        convert(damaged)
    wide = tensors | {"layer1.0.bn1.bias": torch.ones(65)}
    with pytest.raises(CheckpointError, match=r"layer1\.0\.bn1\.bias: \(65,\) there, \(64,\) in"):
        convert(wide)
    more = tensors | {"layer1.0.attention.weight": torch.ones(3)}
    with pytest.raises(
        CheckpointError, match=r"attention\.weight: \(3,\) there, unknown in resnet18"
    ):
        convert(more)
    with pytest.raises(
        CheckpointError, match=r"all tensors must be finite, but conv1\.weight is not"
    ):
        convert(tensors | {"conv1.weight": tensors["conv1.weight"] * torch.nan})


def test_an_architecture_that_is_not_ours_is_compared_with_the_nearest() -> None:
    with torch.device("meta"):
        deep = ResNet(Bottleneck, [3, 4, 23, 3]).state_dict()
        vgg = torchvision.models.vgg11_bn(weights=None).state_dict()
    with pytest.raises(
        CheckpointError, match=r"nearest, resnet50, differs in .*layer3\.10\..* there"
    ):
        convert(deep)
    with pytest.raises(CheckpointError, match=r"nearest, vgg16_bn, .*features\.11"):
        convert(vgg)


def test_several_trunks_ask_for_a_prefix() -> None:
    online, slow = resnet("resnet18"), resnet("resnet18")
    tensors = under("backbone.", online.state_dict()) | under("momentum.", slow.state_dict())
    with pytest.raises(CheckpointError, match=r"got 2, under 'backbone\.', 'momentum\.'"):
        convert(tensors)
    for prefix in ("backbone", "backbone."):
        _, report = convert(tensors, prefix=prefix)
        assert report.prefix == "backbone."
        assert len(report.left) == len(slow.state_dict())
    with pytest.raises(CheckpointError, match=r"under 'teacher\.', .* only \['backbone\.', 'mom"):
        convert(tensors, prefix="teacher")


def test_tensors_without_a_trunk_are_an_error() -> None:
    with pytest.raises(
        CheckpointError, match=r"there is none among 2 tensors: a\.weight, conv1\.weight"
    ):
        convert({"a.weight": torch.ones(2, 2), "conv1.weight": torch.ones(4, 1, 3, 3)})


def test_numbers_out_of_range_are_refused() -> None:
    tensors = resnet("resnet18").state_dict()
    with pytest.raises(ConfigurationError, match=r"got 0.5"):
        convert(tensors, flip_probability=0.5)


def test_files_are_read_with_and_without_a_wrapper(tmp_path: Path) -> None:
    tensors = {"conv1.weight": torch.ones(2, 3, 3, 3)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save(tensors, tmp_path / "b.pt")
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "c.ckpt")
    torch.save({"model": tensors, "args": None}, tmp_path / "d.pth")
    for file in sorted(tmp_path.iterdir()):
        read = read_foreign(file)
        assert list(read) == list(tensors)
        assert torch.equal(read["conv1.weight"], tensors["conv1.weight"])


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".bin", "-00001-of-00001.safetensors"])
def test_a_safetensors_file_may_have_any_name(tmp_path: Path, suffix: str) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / f"x{suffix}")
    assert read_foreign(tmp_path / f"x{suffix}")["weight"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.safetensors.index.json",
            b'{"weight_map": {}}',
            "it is JSON, as the index of .* in shards",
        ),
        ("x-00001-of-00002.safetensors", b"", "is one shard of a model. Merge"),
        ("x.pth", b"<!DOCTYPE html><html></html>", "it is an HTML page in place of a download"),
        ("x.pt", b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer: run"),
    ],
)
def test_what_is_no_file_of_weights_is_called_what_it_is(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(tmp_path / name)


def test_objects_besides_tensors_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "lightning.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Namespace(lr=1)}, path)
    with pytest.raises(
        CheckpointError, match=r"lightning.ckpt should .* holds a argparse\.Namespace"
    ):
        read_foreign(path)


def test_files_that_hold_no_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"nowhere.pt is none"):
        read_foreign(tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text.pt"):
        read_foreign(tmp_path / "text.pt")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"text.safetensors should hold .* it is text"):
        read_foreign(tmp_path / "text.safetensors")
    torch.save({"epoch": 3, "best": 0.9}, tmp_path / "numbers.pt")
    with pytest.raises(CheckpointError, match=r"but holds \['best', 'epoch'\]"):
        read_foreign(tmp_path / "numbers.pt")
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match=r"but holds <class 'torch.Tensor'>"):
        read_foreign(tmp_path / "tensor.pt")
