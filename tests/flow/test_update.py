"""The update of a flow model, with and without alignment."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nacgen.data.pixels import to_float
from nacgen.errors import EXIT_PREEMPTED, NonFiniteError
from nacgen.flow.update import MAX_NORM, FlowUpdate
from nacgen.system.processes import gather_rows
from nacgen.training.checkpoint import load_checkpoint
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import train
from nacgen.training.run import open_run
from tests.flow.small_flow import BATCH, build, flat
from tests.launch import found_by_two_processes


def state_of(update: FlowUpdate) -> dict[str, Tensor]:
    modules = {"denoiser": update.denoiser, "ema": update.ema, "alignment": update.alignment}
    state = {
        f"{name}.{key}": value.clone()
        for name, module in modules.items()
        if module is not None
        for key, value in module.state_dict().items()
    }
    optimizer = update.optimizers["flow"].optimizer
    return state | {
        f"optimizer.{i}.{slot}": value.clone()
        for i, parameter in enumerate(optimizer.param_groups[0]["params"])
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def gradient_of(module: nn.Module) -> Tensor:
    return flat(p.grad for p in module.parameters() if p.grad is not None)


def test_a_step_is_both_losses_written_out() -> None:
    update, stream, _ = build(0.0)
    batch = stream.batch(BATCH)
    logs = update.update(batch)
    found = gradient_of(update.losses)

    update.losses.zero_grad()
    images, alignment = to_float(batch.images), update.alignment
    assert alignment is not None
    noise, time = update.draw(batch)
    t = time.reshape(-1, 1, 1, 1)
    velocity = update.denoiser((1 - t) * images + t * noise, time)
    flow = (velocity - (noise - images)).square().mean()
    distance = alignment(images).mean()
    (flow + 0.5 * distance).backward()
    norm = gradient_of(update.losses).norm()
    assert norm > MAX_NORM
    torch.testing.assert_close(
        found, gradient_of(update.losses) * MAX_NORM / norm, atol=1e-6, rtol=1e-4
    )
    expected = {"loss_flow": flow, "loss_alignment": distance, "loss": flow + 0.5 * distance}
    for name, value in (expected | {"gradient_norm": norm}).items():
        assert logs[name].item() == pytest.approx(value.item(), rel=1e-5), name


def test_short_gradients_are_left_as_they_are() -> None:
    update, stream, _ = build(0.0)
    with torch.no_grad():
        update.denoiser.network.to_velocity.weight.mul_(0.1)  # type: ignore[union-attr, operator]
    norm = update.update(stream.batch(0))["gradient_norm"].item()
    assert norm < MAX_NORM
    assert gradient_of(update.losses).norm().item() == pytest.approx(norm, rel=1e-5)


def test_noise_and_times_are_new_in_every_step_and_of_one_scale() -> None:
    update, stream, _ = build()
    draws = [update.draw(stream.batch(i * BATCH)) for i in range(100)]
    noise, time = (torch.cat(each) for each in zip(*draws, strict=True))
    assert len(time.unique()) > 790
    assert 0 <= time.min() < 0.01 < 0.99 < time.max() < 1
    assert time.mean().item() == pytest.approx(0.5, abs=0.05)
    assert noise.std().item() == pytest.approx(1.0, abs=0.01)
    assert not torch.equal(noise[:BATCH], noise[BATCH : 2 * BATCH])


@pytest.mark.parametrize("align", ["nac", "random"])
def test_the_encoder_is_bitwise_unchanged_and_the_projector_trains(align: str) -> None:
    update, stream, _ = build(1e-2, align=align)
    assert update.alignment is not None
    trunk = update.alignment.trunk
    before, start = flat(trunk.state_dict().values()), state_of(update)
    update.losses.train()
    for i in range(3):
        update.update(stream.batch(i * BATCH))
    assert torch.equal(flat(trunk.state_dict().values()), before)
    assert all(p.grad is None for p in trunk.parameters())
    state = state_of(update)
    moved = {name for name, value in start.items() if not torch.equal(value, state[name])}
    assert {name.split(".")[0] for name in moved} == {"denoiser", "ema", "alignment"}


def test_after_its_share_the_alignment_changes_nothing() -> None:
    """The denoiser's gradient is that of the arm without alignment; the projector's is zero."""
    plain, aligned = build(0.0, align="none")[0], build(0.0, until=0.5)[0]
    stream = build()[1]
    early, late = stream.batch(2 * BATCH), stream.batch(3 * BATCH)
    gradients = []
    for update in (plain, aligned):
        for batch in (early, late):
            logs = update.update(batch)
            gradients.append(gradient_of(update.denoiser) * logs["gradient_norm"].clamp(min=1))
    assert not torch.allclose(gradients[0], gradients[2], rtol=1e-3)
    torch.testing.assert_close(gradients[1], gradients[3])
    assert aligned.alignment is not None
    assert not gradient_of(aligned.alignment).any()
    assert "loss_alignment" not in logs  # 0 would be perfect alignment
    assert logs["loss"] == logs["loss_flow"]


def test_half_of_the_images_are_mirrored_for_denoiser_and_encoder_alike() -> None:
    update, stream, _ = build(flip=True)
    seen: list[Tensor] = []
    update.losses.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    flipped = []
    for i in range(10):
        batch = stream.batch(i * BATCH)
        update.update(batch)
        images = to_float(batch.images)
        assert all(
            torch.equal(a, b) or torch.equal(a, b.flip(2))
            for a, b in zip(seen[-1], images, strict=True)
        )
        flipped += [not torch.equal(a, b) for a, b in zip(seen[-1], images, strict=True)]
    assert 20 < sum(flipped) < 60


def test_one_batch_is_overfitted() -> None:
    update, stream, _ = build(5e-3)
    batch = stream.batch(0)
    logs = [update.update(batch) for _ in range(60)]
    assert logs[-1]["loss_flow"] < 0.6 * logs[0]["loss_flow"]
    assert logs[-1]["loss_alignment"] < 0.8 * logs[0]["loss_alignment"]


def config(folder: Path) -> TrainingConfig:
    run = RunConfig(log_every=8, checkpoint_every=16, tracker="none")
    return TrainingConfig(run_dir=str(folder), total_images=40, batch_size=BATCH, run=run)


@pytest.mark.parametrize(("stop_at", "align"), [(8, "nac"), (32, "nac"), (16, "none")])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, stop_at: int, align: str) -> None:
    """With dropout, flips, warm-up, averaging, and an alignment that ends at three fifths."""
    options = {"dropout": 0.2, "until": 0.6, "align": align, "flip": True}
    update, stream, _ = build(**options)  # type: ignore[arg-type]
    with open_run("x", config(tmp_path / "whole")) as run:
        train(update, stream, run)
    expected = state_of(update)
    update, stream, _ = build(**options)  # type: ignore[arg-type]
    step = update.update

    def stop_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen + BATCH == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    update.update = stop_later  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as stopped, open_run("x", config(tmp_path / "parts")) as run:
        train(update, stream, run)
    assert stopped.value.code == EXIT_PREEMPTED
    update, stream, _ = build(**options)  # type: ignore[arg-type]
    torch.manual_seed(stop_at)  # of a new process
    with open_run("x", config(tmp_path / "parts")) as run:
        train(update, stream, run)
    actual = state_of(update)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], value) for key, value in expected.items())
    logs = [(tmp_path / part / "metrics.jsonl").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]
    aligned = ["loss_alignment" in json.loads(row) for row in logs[0].splitlines()]
    assert aligned == ([False] * 5 if align == "none" else [True] * 3 + [False] * 2)


def test_a_loss_that_is_not_finite_stops_by_name_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    update, stream, _ = build()
    step = update.update

    def spoil_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen == 24:
            with torch.no_grad():
                next(update.denoiser.parameters()).fill_(torch.nan)
        return step(batch)

    update.update = spoil_later  # type: ignore[method-assign]
    with (
        pytest.raises(NonFiniteError, match=r"the loss must stay finite, but at 24 .* nan"),
        open_run("x", config(tmp_path / "run")) as run,
    ):
        train(update, stream, run)
    loaded = load_checkpoint(run.checkpoints)
    assert loaded is not None
    assert loaded[1]["images_seen"] == 16


def gradients() -> dict[str, list[float]]:
    """Gradients of a step with alignment and of one after it, and what is logged."""
    update, stream, _ = build(0.0, until=0.5, flip=True)
    found = {}
    for name, seen in (("early", 0), ("late", 3 * BATCH)):
        logs = update.update(stream.batch(seen))
        found[f"{name} denoiser"] = gradient_of(update.denoiser)
        found[f"{name} projector"] = gradient_of(update.modules["alignment"])
        losses = torch.stack([value for key, value in logs.items() if "loss" in key])
        found[f"{name} losses"] = gather_rows(losses.reshape(1, -1)).mean(0)
    return {name: value.tolist() for name, value in found.items()}


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    two = found_by_two_processes(tmp_path, "tests.flow.test_update")
    one = gradients()
    assert any(one["early projector"])
    for name, expected in one.items():
        a, b = torch.tensor(two[name]), torch.tensor(expected)
        assert (a - b).norm() <= 1e-6 * b.norm(), name
