"""Networks, augmentations and extractors of one's own: trained, resumed, sampled and loaded again."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nacgen
from nacgen.errors import CheckpointError, ConfigurationError
from nacgen.gan.update import GANUpdate
from nacgen.models.encoder import NACEncoder
from nacgen.models.own_network import own_network
from recipes import sample
from tests.api import parts
from tests.api.test_training import call, gan, sha256

GENERATOR = "generator/model.safetensors"
HERE = "tests.api.parts"


def pretrain(folder: Path, *arguments: Any, **options: Any) -> NACEncoder:
    small = {"total_images": 64, "batch_size": 32, "run": {"tracker": "none"}}
    return nacgen.pretrain(*arguments, preset="smoke", run_dir=folder, **(small | options))


def test_a_gan_of_own_networks_is_trained_and_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    own = {"generator": parts.DCGAN(), "discriminator": parts.Critic()}
    before = {k: x.clone() for k, x in own["generator"].state_dict().items()}
    run = gan(tmp_path / "run", augment=parts.noisy, extractor=parts.colors(), **own)
    assert list(run.scores) == ["fd_colors"]
    after = own["generator"].state_dict()
    assert all(torch.equal(x, after[k]) for k, x in before.items()), "it was trained in place"
    assert run.config["init"] == "random"
    assert run.config["encoder"] is None
    images = run.samples(3)
    # By a class, a folder and the command it makes the same images.
    again = nacgen.TrainedRun(run.path, generator=parts.DCGAN)
    assert torch.equal(again.samples(3), images)
    flags = ("--run-dir", str(run.path), "--num-images", "10", "--generator", f"{HERE}:DCGAN")
    call(monkeypatch, sample, *flags)
    assert (run.path / "samples/seeds_0-9.png").is_file()
    with pytest.raises(CheckpointError, match=r"a generator of your own, tests\.api\.parts\.DCGAN"):
        nacgen.TrainedRun(run.path).samples(3)
    with pytest.raises(CheckpointError, match=r"network.0.weight"):
        nacgen.TrainedRun(run.path, generator=parts.DCGAN(32)).samples(3)


def test_names_and_objects_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"augment": parts.noisy, "generator": parts.DCGAN, "discriminator": parts.critic_of}
    options["extractor"] = parts.colors
    objects = gan(tmp_path / "objects", **options)
    names = {
        "augment": f"{HERE}:noisy",
        "generator": f"{HERE}:DCGAN",
        "discriminator": f"{HERE}:critic_of",
        "extractor": f"{HERE}:colors",
    }
    named = gan(tmp_path / "names", init="random", **names)
    assert sha256(objects.path / GENERATOR) == sha256(named.path / GENERATOR)
    assert objects.scores == named.scores
    assert list(named.scores) == ["fd_colors"]
    assert parts.given == [None, 16]
    plain = gan(tmp_path / "plain", **(options | {"augment": None}))
    assert sha256(objects.path / GENERATOR) != sha256(plain.path / GENERATOR)


def test_a_function_of_the_discriminator_gets_the_encoder_of_its_arm(tmp_path: Path) -> None:
    released = NACEncoder.from_pretrained("checkpoints/digits-nac")
    weight = released.backbone.get_parameter("conv1.weight")
    for init, is_same in (("nac", True), ("random", False)):
        options = {"encoder": released, "init": init, "discriminator": parts.critic_of}
        gan(tmp_path / init, **options)
        encoder = parts.given[0]
        assert torch.equal(encoder.backbone.get_parameter("conv1.weight"), weight) == is_same


def test_a_run_of_own_networks_is_resumed_with_the_same_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"generator": parts.DCGAN, "discriminator": parts.Dropping, "augment": parts.noisy}
    options: dict[str, Any] = {"total_images": 48, **own}
    options["run"] = {"tracker": "none", "num_threads": 1, "checkpoint_every": 16}
    whole = gan(tmp_path / "whole", **options)
    update = GANUpdate.update

    def killed(self: GANUpdate, batch: Any) -> Any:
        if batch.images_seen == 32:
            raise RuntimeError("killed")
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(GANUpdate, "update", killed)
        with pytest.raises(RuntimeError, match="killed"):
            gan(tmp_path / "parts", **options)
    with pytest.raises(
        ConfigurationError, match=r"generator.network is own:DCGAN-\w+, a part that"
    ):
        nacgen.train_gan(preset="smoke", config=str(tmp_path / "parts/config.yaml"))
    torch.manual_seed(7)  # of a new process
    resumed = gan(tmp_path / "parts", **options)
    assert sha256(resumed.path / GENERATOR) == sha256(whole.path / GENERATOR)
    with pytest.raises(ConfigurationError, match=r"another configuration \(generator.network"):
        gan(tmp_path / "parts", **(options | {"generator": parts.DCGAN()}))


def test_other_first_weights_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    gan(tmp_path / "run", generator=parts.DCGAN(), discriminator=parts.Critic)
    with pytest.raises(ConfigurationError, match=r"began with other weights of generator. Choose"):
        gan(tmp_path / "run", generator=parts.DCGAN(), discriminator=parts.Critic)
    said: list[str] = []
    (tmp_path / "run/summary.json").unlink()
    monkeypatch.setattr("nacgen.training.run.Run.say", lambda self, text: said.append(text))
    gan(tmp_path / "run", generator=parts.DCGAN(), discriminator=parts.Critic)
    assert any("began with other weights of your own networks" in text for text in said)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"generator": nn.Linear(64, 3)}, r"must give images \(2, 3, 16, 16\).*got \(2, 3\)"),
        (
            {"generator": nn.Linear(8, 3)},
            r"must take latents \(b, 64\) or .* 1, 1\).*neither.*by \*\*{\"generator.latent_dim\": N}\.$",
        ),
        (
            {"generator": parts.mean_colors},
            "mean_colors is called with those keywords of image_size, latent_dim.*'images'",
        ),
        (
            {"discriminator": nn.Linear(5, 1)},
            r"discriminator.network must take images \(2, 3, 16, 1",
        ),
        ({"generator": "no.such:module"}, "no.such:module cannot .ModuleNotFoundError"),
        ({"generator": "tests.api.parts:Nobody"}, "Nobody cannot .AttributeError"),
        ({"generator": "small"}, "one of residual, or package.module:function, got 'small'"),
        (
            {"extractor": f"{HERE}:mean_colors"},
            "mean_colors is called with those keywords of weights, device.*'images'",
        ),
        ({"generator": 3}, "a module, a function or package.module:function, got 3"),
        (
            {"augment": lambda images: images[:, :1]},
            r"must give floats \(16, 3, h, w\).*\(16, 1, 16",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    own: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        gan(tmp_path / "run", **({"discriminator": parts.Critic} | own))
    assert not (tmp_path / "run").exists()


def test_options_of_a_topic_are_a_mapping(tmp_path: Path) -> None:
    run = gan(tmp_path / "run", generator={"latent_dim": 8}, augment={"cutout": 0.5})
    assert run.config["generator"]["latent_dim"] == 8
    assert run.config["augment"]["cutout"] == 0.5


@pytest.mark.parametrize(
    "backbone", [parts.Maps, pytest.param(parts.Features, marks=pytest.mark.slow)]
)
def test_an_encoder_on_an_own_backbone_is_pretrained_and_loaded(
    backbone: type[nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = pretrain(tmp_path / "run", backbone=backbone)
    assert "can be transplanted frozen only" in capsys.readouterr().err
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    loaded = NACEncoder.from_pretrained(tmp_path / "run/encoder", backbone=backbone)
    assert torch.equal(loaded.codes(images), encoder.codes(images))
    assert torch.equal(encoder.run.model.codes(images), encoder.codes(images))
    widths = {parts.Maps: {"shallow": 8, "deep": 12}, parts.Features: {"features": 10}}[backbone]
    maps = loaded.feature_maps(images)
    assert {name: x.shape[1] for name, x in maps.items()} == widths
    assert loaded.features(images).shape == (4, list(widths.values())[-1])
    with pytest.raises(CheckpointError, match=rf"a backbone of your own, own:{backbone.__name__}"):
        NACEncoder.from_pretrained(tmp_path / "run/encoder")
    with pytest.raises(ConfigurationError, match=r"unless it is frozen .*its stages are not known"):
        nacgen.transplant(loaded, into="discriminator", image_size=16)
    part = nacgen.transplant(loaded, into="discriminator", image_size=16, mode="frozen")
    assert part.module.train()(images).shape == (4, 1 + len(widths))
    assert not any(m.training for m in part.module.trunk.backbone.modules())
    assert not any(p.requires_grad for p in part.module.trunk.parameters())
    with pytest.raises(ConfigurationError, match="no random or shuffled control"):
        nacgen.transplant(loaded, into="perceptual", source="random", calibration_images=images)
    run = gan(tmp_path / "gan", encoder=encoder, discriminator={"mode": "frozen"})
    assert run.samples(2).shape == (2, 3, 16, 16)
    perceptual = nacgen.transplant(loaded, into="perceptual")
    assert perceptual.module(images, images).shape == (4,)


def test_an_own_backbone_starts_from_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = parts.Maps()
    encoder = NACEncoder(backbone=network)
    assert encoder.backbone.get_parameter("network.first.0.weight") is network.first[0].weight
    encoder.eval().save_pretrained(tmp_path / "encoder")
    loaded = NACEncoder.from_pretrained(tmp_path / "encoder", backbone=parts.Maps())
    images = torch.zeros(2, 3, 16, 16)
    assert torch.equal(loaded.features(images), encoder.features(images))


def test_views_of_own_are_drawn_alike_in_each_run(tmp_path: Path) -> None:
    first, second = (
        pretrain(tmp_path / name, augment=augment).state_dict()
        for name, augment in (("object", parts.noisy), ("name", f"{HERE}:noisy"))
    )
    assert all(torch.equal(x, second[name]) for name, x in first.items())


def test_a_backbone_that_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"one of the sizes .*32 px: RuntimeError"):
        NACEncoder(backbone=nn.Linear(7, 2))
    with pytest.raises(ConfigurationError, match=r"got \(2, 3, 32\) for features"):
        NACEncoder(backbone=Flat())


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(3)


def test_nothing_is_imported_because_a_file_says_so(tmp_path: Path) -> None:
    NACEncoder(backbone=parts.Features()).save_pretrained(tmp_path / "encoder")
    text = (tmp_path / "encoder/config.json").read_text()
    for name in ("own:Features", "no_such_package:function"):
        (tmp_path / "encoder/config.json").write_text(text.replace("own:Features", name))
        with pytest.raises(CheckpointError, match="a backbone of your own"):
            NACEncoder.from_pretrained(tmp_path / "encoder")
    assert "no_such_package" not in sys.modules


def test_a_finished_run_is_not_that_of_another_partial(tmp_path: Path) -> None:
    own: dict[str, Any] = {"discriminator": parts.Critic, "total_images": 16}
    options = own | {"generator": partial(parts.DCGAN, 64)}
    first = gan(tmp_path / "run", **options)
    assert gan(tmp_path / "run", **options).summary == first.summary
    with pytest.raises(ConfigurationError, match=r"another configuration \(generator.network"):
        gan(tmp_path / "run", **(own | {"generator": partial(parts.DCGAN, latent_dim=64)}))


def test_a_model_of_named_parts_is_loaded(tmp_path: Path) -> None:
    run = gan(tmp_path / "gan", discriminator=parts.Critic, generator=f"{HERE}:DCGAN")
    assert run.samples(2).shape == (2, 3, 16, 16)
    assert nacgen.TrainedRun(run.path, generator=f"{HERE}:DCGAN").samples(1).shape[0] == 1
    encoder = pretrain(tmp_path / "nac", backbone=f"{HERE}:Maps")
    images = torch.zeros(2, 3, 16, 16)
    assert torch.equal(encoder.run.model.codes(images), encoder.codes(images))
    # The same call again returns a flow model that is aligned to a backbone of one's own.
    encoder = NACEncoder.from_pretrained(encoder.run.path / "encoder", backbone=parts.Maps)
    small: dict[str, Any] = {"preset": "smoke", "total_images": 16, "batch_size": 16}
    small |= {"run": {"tracker": "none"}, "extractor": "none", "encoder": encoder}
    flow = nacgen.train_flow(run_dir=tmp_path / "flow", **small)
    again = nacgen.train_flow(run_dir=tmp_path / "flow", **small)
    assert again.summary == flow.summary


class Brightness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images * self.factor


def test_an_augmentation_with_parameters_is_copied(tmp_path: Path) -> None:
    module = Brightness()
    gan(tmp_path / "run", augment=module, encoder="checkpoints/digits-nac")
    assert float(module.calls) == 0
    assert module.factor.grad is None
    assert module.factor.requires_grad


class Keywords(nn.Sequential):
    def __init__(self, **keywords: Any) -> None:
        super().__init__(nn.Linear(64, 768), nn.Tanh(), nn.Unflatten(1, (3, 16, 16)), **keywords)


class Inherited(Keywords):
    pass


class Scalar(parts.Critic):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean()


class Untamed(nn.Sequential):
    """A generator without a last tanh, whose images of latents of zero are in range."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 768, bias=False), nn.Unflatten(1, (3, 16, 16)))
        nn.init.normal_(self[0].weight)


def used_spectral_norm() -> nn.Module:
    layer = nn.utils.spectral_norm(nn.Linear(768, 1))
    layer(torch.zeros(2, 768))
    return nn.Sequential(nn.Flatten(), layer)


def test_a_frozen_child_of_a_backbone_keeps_its_mode() -> None:
    network = parts.Maps()
    network.first.eval()
    NACEncoder(backbone=network)
    assert network.training
    assert network.second.training
    assert not network.first[1].training


@pytest.mark.parametrize("network", [Keywords, Inherited])
def test_keywords_that_a_class_does_not_name_are_not_given(network: type[nn.Module]) -> None:
    known = {"image_size": 16, "latent_dim": 64, "num_classes": None}
    assert isinstance(own_network("generator", network, **known), network)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"discriminator": Scalar}, r"one logit or several an image.*got \(\)"),
        (
            {"discriminator": used_spectral_norm()},
            r"copies it, got a Sequential where it fails .*Only Te",
        ),
        ({"generator": Untamed}, r"must give images in \[-1, 1\].*torch\.tanh"),
        ({"generator": nn.LazyLinear(768)}, r"got a LazyLinear with lazy layers .* function that"),
        ({"extractor": nn.Flatten()}, r"got Flatten.*Wrap a network .*CallableExtractor"),
    ],
)
def test_networks_that_cannot_be_used_are_refused_with_advice(
    own: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        gan(tmp_path / "run", **({"discriminator": parts.Critic} | own))


def test_a_run_is_trained_outside_the_main_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        options = {"total_images": 16, "encoder": "checkpoints/digits-nac"}
        run = pool.submit(gan, tmp_path / "run", **options).result()
    assert run.summary["images_seen"] == 16
