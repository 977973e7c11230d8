import os
import signal
from pathlib import Path

import pytest
import torch

from nacgen.errors import ConfigurationError, LockedError, NonFiniteError
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import EXIT_PREEMPTED, train
from nacgen.training.run_folder import RunFolder
from tests.training.small_gan import build


def config(folder: Path, **options: object) -> TrainingConfig:
    run = RunConfig(log_every=8, checkpoint_every=16, tracker="none")
    return TrainingConfig(run_dir=str(folder), total_images=48, batch_size=8, run=run, **options)  # type: ignore[arg-type]


def state_of(update: object) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in update.modules.items()  # type: ignore[attr-defined]
        for key, value in module.state_dict().items()
    }


def straight_through(folder: Path) -> dict[str, torch.Tensor]:
    update, stream, accelerator = build()
    train(update, stream, RunFolder("x", config(folder)), accelerator)
    return state_of(update)


@pytest.mark.parametrize("stop_at", [8, 16, 40])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    expected = straight_through(tmp_path / "whole")
    update, stream, accelerator = build()
    run = RunFolder("x", config(tmp_path / "parts"))
    step = update.update

    def stop_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen + 8 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    update.update = stop_later  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as stopped:
        train(update, stream, run, accelerator)
    assert stopped.value.code == EXIT_PREEMPTED
    run.release()

    update, stream, accelerator = build()
    train(update, stream, RunFolder("x", config(tmp_path / "parts")), accelerator)
    actual = state_of(update)
    assert all(torch.equal(actual[key], value) for key, value in expected.items())
    logs = [(tmp_path / part / "metrics.jsonl").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_work_since_the_last_checkpoint_is_repeated_exactly(tmp_path: Path) -> None:
    expected = straight_through(tmp_path / "whole")
    update, stream, accelerator = build()
    run = RunFolder("x", config(tmp_path / "parts"))
    step = update.update

    def die_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen == 40:
            raise KeyboardInterrupt  # no checkpoint here, as after a kill
        return step(batch)

    update.update = die_later  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(update, stream, run, accelerator)
    run.release()
    update, stream, accelerator = build()
    train(update, stream, RunFolder("x", config(tmp_path / "parts")), accelerator)
    assert all(torch.equal(state_of(update)[key], value) for key, value in expected.items())


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    update, stream, _ = build()
    with torch.no_grad():
        update.generator.to_rgb.bias.fill_(float("nan"))
    before = {k: v.clone() for k, v in update.discriminator.state_dict().items()}
    with pytest.raises(NonFiniteError, match="at 0 images seen it is nan"):
        update.update(stream.batch(0))
    assert all(torch.equal(before[k], v) for k, v in update.discriminator.state_dict().items())


def test_generator_step_leaves_the_discriminator_alone() -> None:
    update, stream, _ = build()
    batch = stream.batch(0)
    update.update(batch)
    before = [p.detach().clone() for p in update.trainable]
    gradients = [p.grad.clone() for p in update.trainable if p.grad is not None]
    update.update_generator(batch, batch.images.float() / 127.5 - 1)
    assert all(torch.equal(a, b) for a, b in zip(before, update.trainable, strict=True))
    now = [p.grad for p in update.trainable]
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))  # type: ignore[arg-type]


def test_another_configuration_is_refused_by_name(tmp_path: Path) -> None:
    straight_through(tmp_path)
    with pytest.raises(ConfigurationError, match="seed: 0 there, 7 here"):
        RunFolder("x", config(tmp_path, seed=7))


def test_a_run_folder_in_use_is_refused(tmp_path: Path) -> None:
    first, second = (RunFolder("x", config(tmp_path)) for _ in range(2))
    first.create({})
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        second.create({})


def test_nothing_is_written_before_create(tmp_path: Path) -> None:
    RunFolder("x", config(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
