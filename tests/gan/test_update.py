"""The update of adversarial training. That it resumes and two processes equal one: test_loop, test_distributed."""

import copy
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import ConfigurationError, NonFiniteError
from nacgen.gan.build import build_generator, build_update
from nacgen.gan.options import AugmentConfig, DiscriminatorConfig, GANConfig, GeneratorConfig
from nacgen.gan.update import GANUpdate
from nacgen.training.parts import Parts
from tests.gan import small_gan
from tests.gan.small_gan import CUTOUT, PLAIN
from tests.reference import gan as reference

BATCH = 8


def build(augment: AugmentConfig = PLAIN, **options: Any) -> GANUpdate:
    return small_gan.build(BATCH, augment=augment, **options)[0]


def batch_at(images_seen: int = 0) -> Batch:
    return ImageStream(load_dataset("digits"), BATCH, 0).batch(images_seen)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {
        name for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }


def gradients_of(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize("images_seen", [0, BATCH])
def test_discriminator_steps_are_the_formula_written_out(images_seen: int) -> None:
    """Even steps are penalised, with the weight of both."""
    update = build(discriminator_rate=0.0)
    batch = batch_at(images_seen)
    real = to_float(batch.images)
    fake = update.generator(update.latents(batch, "discriminator")).detach()
    logs = update.update_discriminator(batch)
    found = gradients_of(update.discriminator_step.trainable)

    discriminator = copy.deepcopy(update.discriminator)
    trainable = [p for p in discriminator.parameters() if p.requires_grad]
    discriminator.zero_grad()
    logits_real, logits_fake = discriminator(real), discriminator(fake)
    pair = [[[float(x)] for x in logits.detach()] for logits in (logits_real, logits_fake)]
    expected = sum(reference.discriminator_loss(*pair)) / BATCH
    assert logs["loss_discriminator"].item() == pytest.approx(expected, rel=1e-5)
    assert logs["logits_real"].item() == pytest.approx(logits_real.mean().item(), rel=1e-4)
    assert logs["logits_fake"].item() == pytest.approx(logits_fake.mean().item(), rel=1e-4)
    loss = -torch.nn.functional.logsigmoid(logits_real - logits_fake).mean()
    is_penalized = images_seen == 0
    assert ("r1_penalty" in logs, "r2_penalty" in logs) == (is_penalized, is_penalized)
    if is_penalized:
        for name, penalized in (("r1_penalty", real), ("r2_penalty", fake)):
            images = penalized.clone().requires_grad_()
            (by_pixel,) = torch.autograd.grad(
                discriminator(images).sum(), images, create_graph=True
            )
            penalty = by_pixel.square().sum((1, 2, 3)).mean()
            assert logs[name].item() == pytest.approx(penalty.item(), rel=1e-4)
            loss = loss + 2 * 0.3 / 2 * penalty
    loss.backward()
    torch.testing.assert_close(found, gradients_of(trainable), rtol=1e-3, atol=1e-6)
    norm = logs["gradient_norm_discriminator"]
    torch.testing.assert_close(norm, found.norm())


def test_generator_steps_are_the_formula_written_out() -> None:
    update, batch = build(generator_rate=0.0), batch_at()
    real = to_float(batch.images)
    logs = update.update_generator(batch)
    found = gradients_of(list(update.generator.parameters()))
    update.generator.zero_grad()
    fake = update.generator(update.latents(batch, "generator"))
    gap = update.discriminator(fake) - update.discriminator(real)
    loss = -torch.nn.functional.logsigmoid(gap).mean()
    assert logs["loss_generator"].item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    expected = gradients_of(list(update.generator.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_a_discriminator_that_trains_alone_tells_one_batch_apart() -> None:
    update, batch = build(generator_rate=0.0, penalty_weight=0.01), batch_at()
    logs = [update.update(batch) for _ in range(20)]
    assert logs[-1]["loss_discriminator"] < 0.1 < logs[0]["loss_discriminator"]
    assert logs[-1]["logits_real"] > logs[-1]["logits_fake"] + 2


def test_a_generator_that_trains_alone_fools_the_discriminator() -> None:
    update, batch = build(generator_rate=5e-3, discriminator_rate=0.0), batch_at()
    logs = [update.update(batch) for _ in range(25)]
    assert logs[-1]["loss_generator"] < 0.7 * logs[0]["loss_generator"]


def test_the_average_forgets_half_in_its_half_life_of_images() -> None:
    update = build(generator_rate=0.0, discriminator_rate=0.0, ema_half_life=20.0)
    update.update(batch_at())  # the first step copies
    start = state_of(update.generator)
    assert changed(update.averaged_generator, start) == set()
    with torch.no_grad():
        for parameter in update.generator.parameters():
            parameter.add_(1)
    for step in range(1, 6):
        update.update(batch_at(step * BATCH))
        left = 0.5 ** (step * BATCH / 20)
        for name, value in update.averaged_generator.state_dict().items():
            # the generator stands one above the start, and `left` of the way is still to go
            torch.testing.assert_close(value, start[name] + 1 - left, msg=name)
    assert left == pytest.approx(0.25)  # after two half-lives


def test_the_average_is_not_what_trains() -> None:
    update = build()
    for step in range(3):
        update.update(batch_at(step * BATCH))
    assert changed(update.averaged_generator, state_of(update.generator))
    assert update.averaged_generator is not update.generator
    z = update.latents(batch_at(), "generator")
    assert not torch.equal(update.averaged_generator(z), update.generator(z))


@pytest.mark.parametrize(
    ("mode", "frozen"),
    [("frozen", ("conv1", "layer1", "layer2", "layer3")), ("partial", ("conv1", "layer1"))],
)
def test_a_frozen_encoder_is_bitwise_unchanged(mode: str, frozen: tuple[str, ...]) -> None:
    update = build(mode=mode, generator_rate=1e-2, discriminator_rate=1e-2, augment=CUTOUT)
    trunk, heads = state_of(update.discriminator.trunk), state_of(update.discriminator.heads)
    for step in range(4):
        update.update(batch_at(step * BATCH))
    moved = {name.split(".")[1] for name in changed(update.discriminator.trunk, trunk)}
    assert moved == {"conv1", "layer1", "layer2", "layer3"} - set(frozen)
    weights = {name for name in heads if name.endswith("weight")}  # a pair cancels the last bias
    assert weights <= changed(update.discriminator.heads, heads)
    thawed = {
        name.split(".")[1]
        for name, parameter in update.discriminator.trunk.named_parameters()
        if parameter.requires_grad
    }
    assert not thawed & set(frozen)  # nor did the generator's step set them free


def test_real_and_generated_images_are_drawn_anew_by_purpose_and_position() -> None:
    update = build(augment=AugmentConfig(translation=0.125))
    first, later = batch_at(), batch_at(BATCH)
    latents = [
        update.latents(batch, purpose)
        for batch in (first, later)
        for purpose in ("discriminator", "generator")
    ]
    assert latents[0].shape == (BATCH, 8)
    for i, one in enumerate(latents):
        assert all(not torch.equal(one, other) for other in latents[:i])
    assert torch.equal(update.latents(first, "generator"), latents[1])
    same = to_float(first.images)
    real, fake = update.pair(first, same, "generator").chunk(2)
    assert not torch.equal(real, fake)


def test_augmentation_passes_gradients_to_the_generator() -> None:
    update = build(augment=CUTOUT)
    before = state_of(update.generator)
    update.update(batch_at())
    assert changed(update.generator, before) == set(before)


def test_a_discriminator_that_is_not_finite_leaves_all_weights() -> None:
    update = build()
    update.update(batch_at())
    with torch.no_grad():
        update.discriminator.heads["layer3"].linear.bias.fill_(torch.inf)
    parts = {name: state_of(module) for name, module in update.modules.items()}
    with pytest.raises(NonFiniteError, match=f"at {BATCH} images seen it is nan"):
        update.update(batch_at(BATCH))
    for name, module in update.modules.items():
        assert changed(module, parts[name]) == set(), name


def test_a_generator_that_is_not_finite_leaves_its_weights() -> None:
    update, batch = build(), batch_at()
    before = state_of(update.generator)
    with torch.no_grad():
        update.discriminator.heads["layer3"].linear.bias.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="at 0 images seen it is nan"):
        update.update_generator(batch)
    assert changed(update.generator, before) == set()


def test_batch_norm_of_own_networks_is_refused_where_processes_cannot_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = GANConfig(generator=GeneratorConfig(network="tests.api.parts:DCGAN"))
    digits = load_dataset("digits")
    assert build_generator(config, digits, 1).latent_dim == 64
    with pytest.raises(ConfigurationError, match=r"which 2 processes share on GPUs alone"):
        build_generator(config, digits, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    own = build_generator(config, digits, 2)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in own.modules())


def test_an_own_discriminator_with_batch_norm_is_refused_on_several_processes() -> None:
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(768, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
    )
    config = GANConfig(discriminator=DiscriminatorConfig(network="own:critic"))
    digits = load_dataset("digits")
    two = mock.Mock(num_processes=2)
    with pytest.raises(ConfigurationError, match=r"discriminator.network has BatchNorm.*got 2 pro"):
        build_update(config, two, digits, ImageStream(digits, 16, 0), Parts(discriminator=network))
