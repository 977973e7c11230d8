import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from nacgen.data.datasets import load_dataset
from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import (
    EXIT_PREEMPTED,
    CheckpointError,
    DivergenceError,
    NonFiniteError,
)
from nacgen.gan.update import GANUpdate
from nacgen.training import loop
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import Goal, train
from nacgen.training.run import TrainingResult, open_run
from tests.gan.small_gan import build


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
    update, stream, _ = build()
    with open_run("x", config(folder)) as run:
        train(update, stream, run)
    return state_of(update)


@pytest.mark.parametrize("stop_at", [8, 16, 40])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path: Path, stop_at: int) -> None:
    expected = straight_through(tmp_path / "whole")
    update, stream, _ = build()
    step = update.update

    def stop_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen + 8 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    update.update = stop_later  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as stopped, open_run("x", config(tmp_path / "parts")) as run:
        train(update, stream, run)
    assert stopped.value.code == EXIT_PREEMPTED
    actual = straight_through(tmp_path / "parts")
    assert all(torch.equal(actual[key], value) for key, value in expected.items())
    logs = [(tmp_path / part / "metrics.jsonl").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_work_since_the_last_checkpoint_is_repeated_exactly(tmp_path: Path) -> None:
    expected = straight_through(tmp_path / "whole")
    update, stream, _ = build()
    step = update.update

    def die_later(batch):  # type: ignore[no-untyped-def]
        if batch.images_seen == 40:
            raise KeyboardInterrupt  # no checkpoint here, as after a kill
        return step(batch)

    update.update = die_later  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), open_run("x", config(tmp_path / "parts")) as run:
        train(update, stream, run)
    actual = straight_through(tmp_path / "parts")
    assert all(torch.equal(actual[key], value) for key, value in expected.items())
    logs = [(tmp_path / part / "metrics.jsonl").read_text() for part in ("whole", "parts")]
    assert logs[0] == logs[1]  # the rows that were repeated stand there once


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    update, stream, _ = build()
    with torch.no_grad():
        update.generator.to_rgb.bias.fill_(float("nan"))
    before = {k: v.clone() for k, v in update.discriminator.state_dict().items()}
    with pytest.raises(NonFiniteError, match="at 0 images seen it is nan"):
        update.update(stream.batch(0))
    assert all(torch.equal(before[k], v) for k, v in update.discriminator.state_dict().items())


def diverge_from(images_seen: int, update: GANUpdate, patience: int) -> None:
    """Logits exceed their bound from there on."""
    monitor, step = update.discriminator_step.monitor, update.update
    monitor.patience = patience

    def diverge(batch: Batch) -> Any:
        monitor.bound = 0.0 if batch.images_seen >= images_seen else 1e9
        return step(batch)

    update.update = diverge  # type: ignore[method-assign]


def test_a_diverging_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    """Logits exceed their bound from image 24 on; the checkpoint at 16 is good, that at 32 is not."""
    update, stream, _ = build()
    diverge_from(24, update, patience=16)
    message = r"below 0 .* since 24 .* at 40\. "
    with (
        pytest.raises(DivergenceError, match=message) as e,
        open_run("x", config(tmp_path)) as run,
    ):
        train(update, stream, run)
    assert (e.value.since, e.value.exit_code) == (24, 3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000000000016"]


def test_evaluations_that_improve_do_not_push_the_last_good_checkpoint_out(tmp_path: Path) -> None:
    """Logits exceed their bound from image 16 on, while the score gets better with every batch."""
    update, stream, _ = build()
    diverge_from(16, update, patience=32)
    goal = Goal("loss", "lower")
    with (
        pytest.raises(DivergenceError, match=r"since 16 .* at 48"),
        open_run("x", config(tmp_path)) as run,
    ):
        train(
            update,
            stream,
            run,
            evaluate=lambda images_seen: {"loss": -images_seen},
            evaluate_every=8,
            goal=goal,
        )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000000000016"]


def test_generator_step_leaves_the_discriminator_alone() -> None:
    update, stream, _ = build()
    batch = stream.batch(0)
    update.update(batch)
    before = [p.detach().clone() for p in update.discriminator_step.trainable]
    gradients = [p.grad.clone() for p in update.discriminator_step.trainable if p.grad is not None]
    update.update_generator(batch)
    assert all(
        torch.equal(a, b) for a, b in zip(before, update.discriminator_step.trainable, strict=True)
    )
    now = [p.grad for p in update.discriminator_step.trainable]
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))  # type: ignore[arg-type]


class LineUpdate:
    """The smallest update: fits two numbers and notes what it was given."""

    def __init__(self, rates: tuple[float, ...] = (0.1, 0.2), width: int = 2) -> None:
        self.accelerator = Accelerator(cpu=True)
        self.line = torch.nn.ParameterList(torch.ones(width) for _ in rates)
        groups = [{"params": [p], "lr": rate} for p, rate in zip(self.line, rates, strict=True)]
        self.modules: dict[str, torch.nn.Module] = {"line": self.line}
        self.optimizers = {"line": self.accelerator.prepare(torch.optim.SGD(groups))}
        self.seen: list[tuple[int, list[float]]] = []

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        groups = self.optimizers["line"].param_groups
        self.seen.append((batch.images_seen, [group["lr"] for group in groups]))
        return {"loss": torch.tensor(float(batch.images_seen))}


def train_line(
    folder: Path,
    update: LineUpdate | None = None,
    run: dict[str, int] | None = None,
    **options: Any,
) -> tuple[LineUpdate, TrainingResult]:
    update = update or LineUpdate()
    times = RunConfig(**({"log_every": 8, "checkpoint_every": 16} | (run or {})), tracker="none")  # type: ignore[arg-type]
    config = TrainingConfig(run_dir=str(folder), total_images=48, batch_size=8, run=times)
    stream = ImageStream(load_dataset("digits"), 8, 0)
    with open_run("x", config) as opened:
        return update, train(update, stream, opened, **options)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def schedule(images_seen: int) -> float:
    return 1 - images_seen / 64


def test_learning_rates_are_the_schedules_at_the_images_seen_before_the_step(
    tmp_path: Path,
) -> None:
    update, _ = train_line(tmp_path / "whole", schedule=schedule)
    assert [seen for seen, _ in update.seen] == list(range(0, 48, 8))
    for seen, rates in update.seen:
        assert rates == pytest.approx([0.1 * (1 - seen / 64), 0.2 * (1 - seen / 64)])
    first, second = LineUpdate(), LineUpdate()
    step = first.update

    def die_later(batch: Batch) -> dict[str, torch.Tensor]:
        if batch.images_seen == 24:
            raise KeyboardInterrupt
        return step(batch)

    first.update = die_later  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train_line(tmp_path / "parts", first, schedule=schedule)
    train_line(tmp_path / "parts", second, schedule=schedule)
    assert second.seen == update.seen[2:]  # from the checkpoint at 16, rates and all


def test_groups_that_start_late_rise_after_their_start(tmp_path: Path) -> None:
    update = LineUpdate()
    update.optimizers["line"].param_groups[0].update(start_images=16, ramp_images=16)
    train_line(tmp_path / "run", update, schedule=schedule)
    rises = [0, 0, 1 / 16, 9 / 16, 1, 1]  # at 0, 8, 16, ... images
    for (seen, rates), rise in zip(update.seen, rises, strict=True):
        assert rates == pytest.approx([0.1 * schedule(seen) * rise, 0.2 * schedule(seen)])


def test_rows_are_due_when_a_multiple_is_passed_and_at_the_end(tmp_path: Path) -> None:
    train_line(tmp_path / "a", run={"log_every": 12})
    assert [row["images_seen"] for row in rows_of(tmp_path / "a")] == [16, 24, 40, 48]
    assert [row["loss"] for row in rows_of(tmp_path / "a")] == [8, 16, 32, 40]
    train_line(tmp_path / "b", run={"log_every": 1000, "checkpoint_every": 1000})
    assert [row["images_seen"] for row in rows_of(tmp_path / "b")] == [48]
    (checkpoint,) = (tmp_path / "b" / "checkpoints").iterdir()
    assert checkpoint.name == "step_000000000048"


@pytest.mark.parametrize(("every", "times"), [(16, [16, 32, 48]), (20, [24, 40, 48]), (None, [48])])
def test_evaluations_are_due_and_logged_likewise(
    every: int | None, times: list[int], tmp_path: Path
) -> None:
    asked: list[int] = []

    def evaluate(images_seen: int) -> dict[str, Any]:
        asked.append(images_seen)
        return {"score": images_seen / 2}

    _, result = train_line(tmp_path, evaluate=evaluate, evaluate_every=every)
    assert asked == times
    scores = [(row["images_seen"], row["score"]) for row in rows_of(tmp_path) if "score" in row]
    assert scores == [(seen, seen / 2) for seen in times]
    assert (result.images_seen, result.evaluation) == (48, {"score": 24})
    # killed between the last checkpoint and the summary: trained no more, but evaluated
    update, result = train_line(tmp_path, evaluate=evaluate, evaluate_every=every)
    assert update.seen == []
    assert result.evaluation == {"score": 24}
    assert asked == [*times, 48]


def test_seconds_run_over_all_sessions_and_speed_leaves_evaluation_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("nacgen.training.loop.time", SimpleNamespace(monotonic=lambda: now[0]))

    def timed(last: int) -> LineUpdate:
        update = LineUpdate()
        step = update.update

        def slow(batch: Batch) -> dict[str, torch.Tensor]:
            if batch.images_seen == last:
                raise KeyboardInterrupt
            now[0] += 2  # a step takes two seconds
            return step(batch)

        update.update = slow  # type: ignore[method-assign]
        return update

    def evaluate(images_seen: int) -> dict[str, Any]:
        now[0] += 10
        return {"score": 0.0}

    with pytest.raises(KeyboardInterrupt):
        train_line(tmp_path, timed(last=32), evaluate=evaluate, evaluate_every=24)
    now[0] += 1000  # between the sessions; what came after the checkpoint at 32 is lost anyway
    _, result = train_line(tmp_path, timed(last=-1), evaluate=evaluate, evaluate_every=24)
    assert result.seconds == pytest.approx(6 * 2 + 2 * 10)
    assert result.images_per_second == pytest.approx(48 / (6 * 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "shape",
            r"does not fit, 2 differences: line 0: \(2,\) float32 there, \(3,\) float32 here; line 1: ",
        ),
        ("module", r"should hold \['line', 'more', 'optimizer_line'\], but holds \['line', 'opt"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(change: str, message: str, tmp_path: Path) -> None:
    train_line(tmp_path)
    update = LineUpdate(width=3 if change == "shape" else 2)
    if change == "module":
        update.modules["more"] = torch.nn.Linear(1, 1)
    before = [p.clone() for p in update.line]
    with pytest.raises(CheckpointError, match=message):
        train_line(tmp_path, update)
    assert all(torch.equal(a, b) for a, b in zip(before, update.line, strict=True))


def test_the_clock_of_training_stands_still_in_a_pause() -> None:
    clock = loop._Clock(seconds=5.0, training_seconds=3.0)
    with clock.paused():
        before = clock.training_seconds()
        time.sleep(0.02)
        assert clock.training_seconds() == before
        assert clock.seconds() > 5.0
    assert clock.training_seconds() < before + 0.02


def test_memory_is_kept_in_steps_and_given_back_in_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Memory(loop.KeptMemory):
        def __enter__(self) -> "Memory":
            calls.append("keep")
            return self

        def __exit__(self, *exception: object) -> None:
            calls.append("give back")

    def evaluate(images_seen: int) -> dict[str, Any]:
        calls.append("evaluate")
        return {"score": 1.0}

    monkeypatch.setattr(loop, "KeptMemory", Memory)
    train_line(tmp_path, evaluate=evaluate, evaluate_every=1_000)
    assert calls == ["keep", "give back", "evaluate", "keep", "give back"]
