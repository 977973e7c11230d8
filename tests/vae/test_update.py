"""The update of a VAE, with and without its perceptual loss and its adversary."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nacgen.data.pixels import to_float
from nacgen.errors import EXIT_PREEMPTED, DivergenceError, NonFiniteError
from nacgen.functional.likelihoods import gaussian_log_likelihood
from nacgen.system.processes import gather_rows
from nacgen.training.checkpoint import load_checkpoint
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import train
from nacgen.training.run import open_run
from tests.launch import found_by_two_processes
from tests.vae.small_vae import BATCH, build

ROOT = Path(__file__).parents[2]


def state_of(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def gradient_of(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def test_the_divergence_is_weighed_up_over_images() -> None:
    beta = build(adversarial=False, beta=0.5, warmup_images=100)[0].beta
    assert [beta(seen) for seen in (0, 50, 100, 900)] == [0, 0.25, 0.5, 0.5]
    assert build(adversarial=False, beta=0.5, warmup_images=0)[0].beta(0) == 0.5


def test_a_step_is_the_bound_written_out() -> None:
    update, stream, _ = build(0.0, adversarial=False, free_bits=0.0, has_perceptual=False)
    batch, vae = stream.batch(BATCH), update.vae
    update.update(batch)  # fits the variance
    variance = vae.decoder.likelihood.variance.clone()
    logs = update.update(batch)
    found = gradient_of(vae)

    vae.zero_grad()
    images = to_float(batch.images)
    mean, log_variance = vae.encoder(images)
    posterior = Normal(mean, log_variance.exp().sqrt())
    z = mean + posterior.scale * update.noise(batch)
    distortion = -gaussian_log_likelihood(images, vae.decoder(z), variance).mean()  # type: ignore[arg-type]
    rate = kl_divergence(posterior, Normal(0.0, 1.0)).sum(1).mean()
    (distortion + 0.25 * rate).backward()  # a quarter of the warm-up is over
    torch.testing.assert_close(found, gradient_of(vae), rtol=1e-4, atol=1e-4)
    expected = {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}
    expected |= {"loss": distortion + 0.25 * rate, "gradient_norm": found.norm()}
    for name, value in expected.items():
        assert logs[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_the_perceptual_loss_adds_its_gradient() -> None:
    batch = build()[1].batch(0)
    both = {}
    for weight in (0.0, 2.0):
        update, _, _ = build(0.0, adversarial=False, perceptual_weight=weight)
        logs = update.update(batch)
        both[weight] = gradient_of(update.vae)
    update.vae.zero_grad()
    images = to_float(batch.images)
    outputs = update.vae(images, update.noise(batch)).outputs
    assert update.perceptual is not None
    distance = update.perceptual(images, update.vae.decoder.likelihood.mean(outputs)).mean()
    (2.0 * 768 * distance).backward()
    assert logs["perceptual_distance"].item() == pytest.approx(distance.item(), rel=1e-5)
    difference = torch.cat(
        [p.grad.flatten() for p in update.vae.parameters() if p.grad is not None]
    )
    assert difference.norm() > 1
    torch.testing.assert_close(both[2.0] - both[0.0], difference, rtol=1e-3, atol=1e-2)


def test_the_adversary_joins_in_time_and_balances_gradients() -> None:
    update, stream, _ = build(1e-3)
    first, second, third = (update.update(stream.batch(i * BATCH)) for i in range(3))
    assert "loss_discriminator" not in first
    assert "loss_discriminator" in second
    assert "loss_adversarial" not in second
    assert {"loss_adversarial", "adaptive_weight", "logits_real"} <= set(third)

    batch, adversary = stream.batch(3 * BATCH), update.adversary
    assert adversary is not None
    images, last = to_float(batch.images), update.vae.decoder.to_outputs.weight
    outputs = update.vae(images, update.noise(batch)).outputs
    made = update.vae.decoder.likelihood.mean(outputs)
    base = -update.vae.decoder.likelihood(images, outputs).mean()
    penalty, _ = adversary.loss(batch, images, made, base, last)
    ours, theirs = (torch.autograd.grad(x, last, retain_graph=True)[0] for x in (base, penalty))
    assert theirs.norm().item() == pytest.approx(0.75 * ours.norm().item(), rel=1e-2)


def test_the_autoencoders_step_leaves_the_discriminator_alone() -> None:
    update, stream, _ = build(1e-2)
    for i in range(3):
        update.update(stream.batch(i * BATCH))
    adversary, batch = update.adversary, stream.batch(3 * BATCH)
    assert adversary is not None
    before, gradient = state_of(update.modules), gradient_of(adversary.discriminator)
    adversary.update = lambda *args: {}  # type: ignore[method-assign]
    update.update(batch)
    after = state_of(update.modules)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"vae"}
    assert torch.equal(gradient_of(adversary.discriminator), gradient)
    assert all(p.requires_grad for p in adversary.step.trainable)


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic_mixture"])
def test_one_batch_is_overfitted(likelihood: str) -> None:
    update, stream, _ = build(5e-3, likelihood, adversarial=False, has_perceptual=False)
    batch = stream.batch(0)
    logs = [update.update(batch) for _ in range(60)]
    assert logs[-1]["distortion"] < 0.7 * logs[1]["distortion"]


def config(folder: Path) -> TrainingConfig:
    run = RunConfig(log_every=8, checkpoint_every=16, tracker="none")
    return TrainingConfig(run_dir=str(folder), total_images=40, batch_size=BATCH, run=run)


@pytest.mark.parametrize("stop_at", [8, 32])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    """Before the adversary joins, and after; the Gaussian's variance goes on, too."""
    update, stream, _ = build()
    with open_run("x", config(tmp_path / "whole")) as run:
        train(update, stream, run)
    expected = state_of(update.modules)
    update, stream, _ = build()
    step = update.update

    def stop_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen + BATCH == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    update.update = stop_later  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as stopped, open_run("x", config(tmp_path / "parts")) as run:
        train(update, stream, run)
    assert stopped.value.code == EXIT_PREEMPTED
    update, stream, _ = build()
    with open_run("x", config(tmp_path / "parts")) as run:
        train(update, stream, run)
    actual = state_of(update.modules)
    assert "vae.decoder.likelihood.variance" in actual
    assert all(torch.equal(actual[key], value) for key, value in expected.items())
    logs = [(tmp_path / part / "metrics.jsonl").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_loss_that_is_not_finite_stops_by_name_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    update, stream, _ = build()
    step = update.update

    def spoil_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen == 24:
            with torch.no_grad():
                update.vae.decoder.to_outputs.bias.fill_(torch.nan)
        return step(batch)

    update.update = spoil_later  # type: ignore[method-assign]
    message = r"the autoencoder's loss must stay finite, but at 24 .* nan"
    with (
        pytest.raises(NonFiniteError, match=message),
        open_run("x", config(tmp_path / "run")) as run,
    ):
        train(update, stream, run)
    loaded = load_checkpoint(run.checkpoints)
    assert loaded is not None
    assert loaded[1]["images_seen"] == 16
    assert all(tensor.isfinite().all() for tensor in loaded[0]["vae"].values())


def test_logits_beyond_their_bound_for_long_stop_by_name_and_keep_what_was_before(
    tmp_path: Path,
) -> None:
    update, stream, _ = build(adversarial=True)
    assert update.adversary is not None
    step = update.update

    def spoil_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen == 16:
            with torch.no_grad():
                update.modules["discriminator"].layers[-1].weight.fill_(1e6)  # type: ignore[index, operator, union-attr]
        return step(batch)

    update.update = spoil_later  # type: ignore[method-assign]
    message = r"since 16 images .* a higher penalty weight"
    with (
        pytest.raises(DivergenceError, match=message),
        open_run("x", config(tmp_path / "run")) as run,
    ):
        train(update, stream, run)
    loaded = load_checkpoint(run.checkpoints)
    assert loaded is not None
    assert loaded[1]["images_seen"] == 16


def gradients() -> dict[str, list[float]]:
    """Gradients of a step with everything in it, and what was fitted and logged by it."""
    update, stream, _ = build(0.0)
    update.update(stream.batch(0))
    logs = update.update(stream.batch(2 * BATCH))
    assert update.adversary is not None
    found = {
        "vae": gradient_of(update.vae),
        "discriminator": gradient_of(update.adversary.discriminator),
        "variance": update.vae.decoder.likelihood.variance.reshape(1),  # type: ignore[operator]
        "adaptive_weight": logs["adaptive_weight"].reshape(1),
        "elbo": gather_rows(logs["elbo"].reshape(1, 1)).mean(0),
    }
    return {name: value.tolist() for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    two = found_by_two_processes(tmp_path, "tests.vae.test_update")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as there: the second step's gradients amplify another order of sums
    try:
        one = gradients()
    finally:
        torch.set_num_threads(threads)
    for name, expected in one.items():
        a, b = torch.tensor(two[name]), torch.tensor(expected)
        assert (a - b).norm() <= 1e-6 * b.norm(), name
