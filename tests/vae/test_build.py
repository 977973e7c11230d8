"""Each switch of VAE training changes what it says, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from nacgen.data.datasets import ImageDataset, load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, DataError
from nacgen.models.encoder import NACEncoder
from nacgen.system.randomness import seeded
from nacgen.vae.build import build_update
from nacgen.vae.options import (
    DecoderConfig,
    DiscriminatorConfig,
    ObjectiveConfig,
    PosteriorConfig,
    VAEConfig,
)
from nacgen.vae.presets import PRESETS
from nacgen.vae.update import VAEUpdate

SMALL = VAEConfig(batch_size=16, total_images=160, decoder=DecoderConfig(channels=(16, 8, 8)))


def build(config: VAEConfig) -> tuple[VAEUpdate, ImageStream]:
    dataset = load_dataset("digits")
    stream = ImageStream(dataset, config.batch_size, config.seed)
    return build_update(config, Accelerator(cpu=True), dataset, stream)[0], stream


def part_of(update: VAEUpdate, name: str) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in update.vae.get_submodule(name).state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("init", ["random", "shuffled"])
def test_arms_share_all_but_the_trunk(init: Any) -> None:
    nac, control = build(SMALL)[0], build(replace(SMALL, init=init))[0]
    assert equal(part_of(nac, "decoder"), part_of(control, "decoder"))
    assert equal(part_of(nac, "encoder.head"), part_of(control, "encoder.head"))
    assert not equal(part_of(nac, "encoder.trunk"), part_of(control, "encoder.trunk"))
    rates = [[g["lr"] for g in u.optimizers["vae"].param_groups] for u in (nac, control)]
    assert rates[0] == rates[1]


def test_encoders_of_other_methods_are_given_by_path(tmp_path: Any) -> None:
    with seeded(1, "test"):
        NACEncoder(code_dim=8).save_pretrained(tmp_path / "simclr")
    other = build(replace(SMALL, init="simclr", encoder=str(tmp_path / "simclr")))[0]
    assert not equal(part_of(other, "encoder.trunk"), part_of(build(SMALL)[0], "encoder.trunk"))


@pytest.mark.parametrize(
    ("mode", "frozen"),
    [
        ("init", set()),
        ("partial", {"conv1", "layer1"}),
        ("frozen", {"conv1", "layer1", "layer2", "layer3"}),
    ],
)
def test_frozen_stages_are_bitwise_unchanged(mode: Any, frozen: set[str]) -> None:
    update, stream = build(replace(SMALL, posterior=PosteriorConfig(mode=mode)))
    before = part_of(update, "encoder.trunk.backbone")
    update.vae.train()
    for step in range(3):
        update.update(stream.batch(step * 16))
    after = part_of(update, "encoder.trunk.backbone")
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"conv1", "layer1", "layer2", "layer3"} - frozen


@pytest.mark.parametrize("source", ["nac", "random", "shuffled"])
def test_the_perceptual_loss_is_a_switch_of_its_own_and_reaches_the_image(source: Any) -> None:
    plain, with_loss = build(SMALL)[0], build(replace(SMALL, perceptual=source))[0]
    assert equal(part_of(plain, "decoder"), part_of(with_loss, "decoder"))
    assert equal(part_of(plain, "encoder"), part_of(with_loss, "encoder"))
    assert plain.perceptual is None
    assert with_loss.perceptual is not None
    assert not any(p.requires_grad for p in with_loss.perceptual.parameters())
    images = to_float(load_dataset("digits").read(torch.arange(4)))
    made = images.flip(0).requires_grad_()
    with_loss.perceptual(images, made).sum().backward()
    assert made.grad is not None
    assert (made.grad.flatten(1).norm(dim=1) > 1e-3).all()


def test_the_perceptual_loss_may_have_an_encoder_of_its_own(tmp_path: Any) -> None:
    with seeded(1, "test"):
        NACEncoder(code_dim=8).save_pretrained(tmp_path / "own")
    images = to_float(load_dataset("digits").read(torch.arange(4)))
    distances = []
    for path in (None, str(tmp_path / "own")):
        update = build(replace(SMALL, perceptual="nac", perceptual_encoder=path))[0]
        assert update.perceptual is not None
        distances.append(update.perceptual(images, images.flip(0)))
    assert not torch.allclose(*distances)


def test_the_discriminator_has_a_source_of_its_own() -> None:
    trunks = []
    for init, source in (("nac", "encoder"), ("random", "encoder"), ("nac", "random")):
        discriminator = DiscriminatorConfig(source=source)  # type: ignore[arg-type]
        config = replace(SMALL, init=init, adversarial=True, discriminator=discriminator)  # type: ignore[arg-type]
        update = build(config)[0]
        trunks.append(update.modules["discriminator"].get_submodule("trunk").state_dict())
    assert equal(trunks[0], trunks[1])
    assert not equal(trunks[0], trunks[2])
    assert update.adversary is not None
    assert (update.adversary.start, update.adversary.acts_from) == (56, 80)


def test_an_adversary_needs_images_enough_for_a_batch() -> None:
    digits = load_dataset("digits")
    assert isinstance(digits, ImageDataset)
    few = digits.subset(torch.arange(10))
    with pytest.raises(
        DataError, match="a batch of 16 needs as many images, but digits/train has 10"
    ):
        ImageStream(few, 16, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"posterior": {"latent_dim": 0}},
            r"latent_dim must be above 0, got 0. Change --posterior",
        ),
        ({"objective": {"beta": -1.0}}, r"0 or more, got -1.0. Change --objective.beta"),
        ({"objective": {"free_bits": float("nan")}}, r"got nan. Change --objective.free-bits"),
        ({"objective": {"warmup_images": -1}}, r"got -1. Change --objective.warmup-images"),
        ({"discriminator": {"weight": -1.0}}, r"got -1.0. Change --discriminator.weight"),
        ({"decoder": {"channels": (16, 0)}}, r"got \(16, 0\). Change --decoder.channels"),
        ({"score": {"bound_images": 0}}, r"got 0. Change --score.bound-images"),
        ({"score": {"num_samples": 1}}, r"got 1. Change --score.num-samples"),
        ({"optim": {"learning_rate": 0.0}}, r"got 0.0. Change --optim.learning-rate"),
    ],
)
def test_numbers_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    ((topic, values),) = options.items()
    with pytest.raises(ConfigurationError, match=message):
        type(getattr(SMALL, topic))(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discriminator": DiscriminatorConfig(weight=0.5)}, "weight has no effect without --adv"),
        ({"perceptual_encoder": "own"}, "perceptual_encoder has no effect without --perceptual"),
        (
            {"objective": ObjectiveConfig(beta=0.0, warmup_images=64)},
            "warmup_images has no effect with --objective.beta 0",
        ),
    ],
)
def test_options_without_an_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        replace(SMALL, **options)


def test_other_images_need_an_encoder_of_their_own() -> None:
    with pytest.raises(ConfigurationError, match="digits, got none for folder"):
        VAEConfig(dataset="folder", data_dir="docs").check_inputs()
    encoder = "checkpoints/digits-nac"
    VAEConfig(dataset="folder", data_dir="docs", encoder=encoder).check_inputs()
    with pytest.raises(
        ConfigurationError, match="--init simclr needs an encoder that was pretrained"
    ):
        VAEConfig(init="simclr").check_inputs()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_their_first_steps_at_reduced_size(name: str, tmp_path: Any) -> None:
    preset = PRESETS[name]
    size = preset.data.image_size or (32 if preset.dataset == "cifar10" else 16)
    channels = None
    if preset.decoder.channels is not None:
        channels = tuple(max(8, width // 16) for width in preset.decoder.channels)
    config = replace(
        preset,
        batch_size=4,
        total_images=16,
        encoder="checkpoints/digits-nac",
        decoder=replace(preset.decoder, channels=channels),
    )
    images = torch.randint(256, (8, 3, size, size), dtype=torch.uint8)
    dataset = ImageDataset("made", "train", images, None)
    stream = ImageStream(dataset, 4, 0)
    update, _ = build_update(config, Accelerator(cpu=True), dataset, stream)
    before = part_of(update, "encoder")
    for step in range(2):
        logs = update.update(stream.batch(4 * step))
    assert torch.isfinite(logs["loss"])
    assert not equal(before, part_of(update, "encoder"))
