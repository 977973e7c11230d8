"""Accumulation, steps of one network for several of the other, losses by name, classes. See also test_gan."""

import copy
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn

from nacgen.data.pixels import to_float
from nacgen.errors import ConfigurationError
from nacgen.gan.adaptive import AdaptiveAugmentation
from nacgen.gan.options import AugmentConfig, GANConfig, OptimConfig
from nacgen.gan.update import GANUpdate
from nacgen.models.gan import Generator
from nacgen.models.sngan import SNGANDiscriminator
from nacgen.system.randomness import seeded
from nacgen.transplant.heads import normalize_layers
from tests.gan.small_gan import PLAIN, build
from tests.reference import gan as reference

BATCH = 8


def build_conditional(**optim: Any) -> GANUpdate:
    """Ten classes, SNGAN's discriminator without its spectral norm's counting, nothing that moves."""
    with seeded(0, "test"):
        generator = Generator(16, 8, (16, 8, 8), num_classes=10)
        discriminator = SNGANDiscriminator(channels=8, num_classes=10).eval()
    config = GANConfig(augment=PLAIN, optim=OptimConfig(loss="hinge", penalty_weight=0.0, **optim))
    return GANUpdate(
        Accelerator(cpu=True),
        generator,
        discriminator,
        torch.optim.SGD(generator.parameters(), lr=0.0),
        torch.optim.SGD(discriminator.parameters(), lr=0.0),
        config,
    )


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def without_learning(update: GANUpdate) -> GANUpdate:
    for optimizer in update.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    return update


@pytest.mark.parametrize("loss", ["rpgan", "hinge", "non-saturating"])
@pytest.mark.parametrize("micro_batches", [2, 8])
def test_micro_batches_give_the_gradients_and_logs_of_the_batch(
    loss: str, micro_batches: int
) -> None:
    whole, parts = (
        without_learning(build(BATCH, loss=loss, micro_batches=count)[0])
        for count in (1, micro_batches)
    )
    stream = build(BATCH)[1]
    for position in (0, BATCH):  # with penalties and without
        batch = stream.batch(position)
        expected, found = whole.update(batch), parts.update(batch)
        assert list(expected) == list(found)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
        for network in ("generator", "discriminator"):
            pairs = zip(
                gradients_of(whole.modules[network]),
                gradients_of(parts.modules[network]),
                strict=True,
            )
            for a, b in pairs:
                torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


def test_the_generator_step_leaves_the_discriminator_alone_under_accumulation() -> None:
    update, stream, _ = build(BATCH, micro_batches=4)
    update.update_discriminator(stream.batch(0))
    before = gradients_of(update.discriminator)
    weights = copy.deepcopy(update.discriminator.state_dict())
    update.update_generator(stream.batch(0))
    after = gradients_of(update.discriminator)
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    now = update.discriminator.state_dict()
    assert all(torch.equal(now[name], value) for name, value in weights.items())
    assert all(p.requires_grad for p in update.discriminator_step.trainable)


def test_the_generator_steps_once_for_several_of_the_discriminator() -> None:
    update, stream, _ = build(BATCH, discriminator_steps=3, ema_half_life=48.0)
    moved = []
    for step in range(6):
        before = {
            name: copy.deepcopy(module.state_dict()) for name, module in update.modules.items()
        }
        logs = update.update(stream.batch(step * BATCH))
        moved.append(
            {
                name
                for name in ("generator", "discriminator", "ema")
                for key, value in update.modules[name].state_dict().items()
                if not torch.equal(value, before[name][key])
            }
        )
        assert ("loss_generator" in logs) == (step >= 2)  # afterwards the last one
    only, all_of_them = {"discriminator"}, {"discriminator", "generator", "ema"}
    assert moved == [only, only, all_of_them] * 2
    # A step of the generator stands for 24 images: 0.5 ** (24 / 48) of the average is kept. Its first copies.
    for name, value in update.averaged_generator.state_dict().items():
        start, now = before["generator"][name], update.generator.state_dict()[name]
        torch.testing.assert_close(value, 0.5**0.5 * start + (1 - 0.5**0.5) * now)


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
def test_steps_with_classic_losses_are_the_formula_written_out(loss: str) -> None:
    update, stream, _ = build(
        BATCH,
        augment=PLAIN,
        loss=loss,
    )
    update.discriminator_step.penalty_weight = lambda seen: 0.4 if seen == 0 else 0.0
    update, batch = without_learning(update), stream.batch(0)
    discriminator = copy.deepcopy(update.discriminator)
    real = to_float(batch.images)
    fake = update.generator(update.latents(batch, "discriminator")).detach()
    logs = update.update_discriminator(batch)
    logits = [[[float(x)] for x in discriminator(images).detach()] for images in (real, fake)]
    expected = sum(reference.classic_losses(loss, *logits)[0]) / BATCH
    assert logs["loss_discriminator"].item() == pytest.approx(expected, rel=1e-4)
    assert logs["sign_real"].item() == pytest.approx(
        sum((x > 0) - (x < 0) for [x] in logits[0]) / BATCH
    )
    found = gradients_of(update.discriminator)
    margin = torch.relu if loss == "hinge" else nn.functional.softplus
    shift = 1 if loss == "hinge" else 0
    images = real.clone().requires_grad_()
    fakes = fake.clone().requires_grad_()
    logits_real, logits_fake = discriminator(images), discriminator(fakes)
    total = (margin(shift - logits_real) + margin(shift + logits_fake)).mean()
    for name, each, output in (("r1", images, logits_real), ("r2", fakes, logits_fake)):
        (by_pixel,) = torch.autograd.grad(output.sum(), each, create_graph=True)
        penalty = by_pixel.square().sum((1, 2, 3)).mean()
        assert logs[f"{name}_penalty"].item() == pytest.approx(penalty.item(), rel=1e-4)
        total = total + 2 * 0.4 / 2 * penalty  # every second step
    total.backward()
    for a, b in zip(gradients_of(discriminator), found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-6)
    assert "r1_penalty" not in update.update_discriminator(stream.batch(2 * BATCH))

    batch = stream.batch(0)
    logs = update.update_generator(batch)
    fake = update.generator(update.latents(batch, "generator")).detach()
    logits = [[[float(x)] for x in discriminator(images).detach()] for images in (real, fake)]
    expected = sum(reference.classic_losses(loss, *logits)[1]) / BATCH
    assert logs["loss_generator"].item() == pytest.approx(expected, rel=1e-4)


def test_bf16_halves_all_but_penalties_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    update, stream, _ = build(BATCH)
    plain = [update.update(stream.batch(step * BATCH)) for step in range(2)]
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    update, stream, accelerator = build(BATCH)
    assert accelerator.mixed_precision == "bf16"
    seen = []
    inner = update.discriminator.heads["layer3"].linear  # Accelerate gives out float32
    inner.register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    half = [update.update(stream.batch(step * BATCH)) for step in range(2)]
    # penalised in full, generator's step in two calls; not penalised, generator's step
    assert seen == [torch.float32, *5 * [torch.bfloat16]]
    r1, expected = half[0]["r1_penalty"].item(), plain[0]["r1_penalty"].item()
    assert r1 == pytest.approx(expected, rel=1e-5)  # of the same real images
    for here, there in zip(half, plain, strict=True):
        for loss in ("loss_discriminator", "loss_generator"):
            assert here[loss].item() == pytest.approx(there[loss].item(), rel=0.05)
            assert here[loss] != there[loss]
    assert {p.dtype for m in update.modules.values() for p in m.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_compiled_generator_trains_as_it_does_otherwise() -> None:
    update, stream, _ = build(BATCH)
    plain = [update.update(stream.batch(step * BATCH)) for step in range(2)]
    update, stream, _ = build(BATCH)
    update.generator.compile()
    for step, expected in enumerate(plain):
        found = update.update(stream.batch(step * BATCH))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    names = set(update.generator.state_dict())
    assert not any("_orig_mod" in name for name in names)
    assert update.averaged_generator._compiled_call_impl is None  # scored as it is saved


def test_both_networks_get_the_classes_of_the_real_images() -> None:
    update, stream = build_conditional(), build(BATCH)[1]
    batch = stream.batch(0)
    assert batch.labels is not None
    logs = update.update(batch)
    fake = update.generator(update.latents(batch, "discriminator"), batch.labels)
    logits = update.discriminator(torch.cat([to_float(batch.images), fake]), batch.labels.repeat(2))
    real, generated = logits.chunk(2)
    loss = (torch.relu(1 - real) + torch.relu(1 + generated)).mean()
    assert logs["loss_discriminator"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert logs["logits_fake"].item() == pytest.approx(generated.mean().item(), rel=1e-4)
    for network in (update.generator, update.discriminator):
        assert network.embedding is not None
        weight = dict(network.embedding.named_parameters())
        (gradient,) = (p.grad for p in weight.values())
        assert gradient is not None
        seen = set(batch.labels.tolist())
        if network is update.generator:  # (spectral norm spreads gradients over all classes)
            assert {i for i, row in enumerate(gradient) if row.abs().sum() > 0} == seen


def test_micro_batches_take_their_classes_along() -> None:
    stream = build(BATCH)[1]
    whole, parts = build_conditional(), build_conditional(micro_batches=4)
    expected, found = (update.update(stream.batch(0)) for update in (whole, parts))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_adaptive_augmentation_follows_the_sign_of_real_logits() -> None:
    update, stream, _ = build(BATCH, augment=AugmentConfig(adaptive=True))
    adaptive = update.modules["augmentation"]
    assert isinstance(adaptive, AdaptiveAugmentation)
    adaptive.target, adaptive.images_to_full = -1.0, 64.0  # any sign is above
    probabilities = [
        update.update(stream.batch(step * BATCH))["augment_probability"].item() for step in range(9)
    ]
    assert probabilities == [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1]
    assert all(group["lr"] for o in update.optimizers.values() for group in o.param_groups)


def test_a_discriminator_without_anything_to_train_is_refused() -> None:
    with seeded(0, "test"):
        discriminator = SNGANDiscriminator(channels=8).requires_grad_(False)
    generator = Generator(16, 8, (16, 8, 8))
    optimizer = torch.optim.SGD(generator.parameters())
    count = sum(p.numel() for p in discriminator.parameters())
    with pytest.raises(ConfigurationError, match=f"all of its {count} are frozen"):
        GANUpdate(
            Accelerator(cpu=True), generator, discriminator, optimizer, optimizer, GANConfig()
        )


def test_real_images_need_no_gradient_in_the_generators_step() -> None:
    """Both calls see the same weights: spectral norm takes one power iteration, as in one call."""
    update, stream, _ = build(BATCH)
    discriminator, calls = update.discriminator, list[tuple[bool, int]]()
    normalize_layers(discriminator.heads)
    one_call = copy.deepcopy(discriminator)
    one_call(torch.zeros(BATCH, 3, 16, 16))

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        calls.append((torch.is_grad_enabled(), len(args[0])))

    discriminator.register_forward_pre_hook(note)
    update.update_generator(stream.batch(0))
    assert calls == [(True, BATCH), (False, BATCH)]
    expected = dict(one_call.named_buffers())
    for name, value in discriminator.named_buffers():
        assert torch.equal(value, expected[name])


def test_real_images_pass_the_generators_step_only_where_the_loss_compares_with_them() -> None:
    update = build_conditional()
    calls: list[int] = []
    update.discriminator.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    update.update_generator(build(BATCH)[1].batch(0))
    assert calls == [BATCH]
