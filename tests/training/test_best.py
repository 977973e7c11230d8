"""Which checkpoints stay, and what a signal does while a run is being evaluated or saved."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.data.stream import Batch
from nacgen.errors import EXIT_PREEMPTED
from nacgen.training import checkpoint, loop
from nacgen.training.checkpoint import load_checkpoint, read_checkpoint
from nacgen.training.loop import Goal
from tests.processes import ended
from tests.training.test_loop import LineUpdate, train_line

SCORES = {8: 5.0, 16: 3.0, 24: float("nan"), 32: 3.0, 40: 4.0, 48: 9.0}  # by images seen
LOWEST, HIGHEST = Goal("scores.x.value", "lower"), Goal("scores.x.value", "higher")


class Moving(LineUpdate):
    """Its weights tell how many steps it has taken."""

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            self.line[0].add_(1)
        return super().update(batch)


def evaluate(images_seen: int) -> dict[str, Any]:
    return {"scores": {"x": {"value": SCORES[images_seen]}}}


def run(folder: Path, look: Callable[[int], dict[str, Any]] = evaluate, **options: Any) -> Moving:
    settings = {"run": {"checkpoint_every": 16}, "evaluate_every": 8, "goal": LOWEST} | options
    return train_line(folder, Moving(), evaluate=look, **settings)[0]  # type: ignore[return-value]


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").iterdir())


def same_files(a: Path, b: Path) -> bool:
    """Checkpoints that are equal but for the time that was spent."""
    return kept(a) == kept(b) and all(
        (a / "checkpoints" / name / "line.safetensors").read_bytes()
        == (b / "checkpoints" / name / "line.safetensors").read_bytes()
        for name in (f"step_{seen:012d}" for seen in kept(a))
    )


@pytest.mark.parametrize(
    ("goal", "expected"), [(LOWEST, [16, 32, 48]), (HIGHEST, [32, 48]), (None, [32, 48])]
)
def test_the_best_evaluation_is_kept_besides_the_last_two(
    tmp_path: Path, goal: Goal | None, expected: list[int]
) -> None:
    """Equal scores do not take turns, and a score that is not finite is none."""
    run(tmp_path, goal=goal)
    assert kept(tmp_path) == expected
    _, state = load_checkpoint(tmp_path / "checkpoints")  # type: ignore[misc]
    best = {LOWEST: (16, 3.0), HIGHEST: (48, 9.0)}
    there = state["best"] and (state["best"]["images_seen"], state["best"]["value"])
    assert there == (best[goal] if goal else None)


def test_an_evaluation_that_beats_all_is_saved_where_no_checkpoint_is_due(tmp_path: Path) -> None:
    run(tmp_path, run={"checkpoint_every": 48})
    assert kept(tmp_path) == [16, 48]


def test_a_goal_that_the_evaluation_has_not_is_no_error(tmp_path: Path) -> None:
    run(tmp_path, goal=Goal("scores.y.value", "lower"))
    assert kept(tmp_path) == [32, 48]


@pytest.mark.parametrize("killed_in", ["evaluation", "note_best", "save"])
def test_the_best_survives_kills_bit_for_bit(
    tmp_path: Path, killed_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at one position after the other: in its evaluation, with that logged but not saved, and saved."""
    run(tmp_path / "whole")
    for position in (8, 16, 32, 48) if killed_in == "save" else SCORES:

        def look(images_seen: int, position: int = position) -> dict[str, Any]:
            if killed_in == "evaluation" and images_seen == position:
                raise KeyboardInterrupt
            return evaluate(images_seen)

        method = getattr(loop._Session, killed_in, None)

        def killing(self: Any, position: int = position, method: Any = method) -> bool:
            if self.images_seen == position:
                if killed_in == "save":
                    method(self)
                raise KeyboardInterrupt
            return bool(method(self))

        with monkeypatch.context() as patch:
            if method is not None:
                patch.setattr(loop._Session, killed_in, killing)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "parts", look)
    run(tmp_path / "parts")
    assert same_files(tmp_path / "whole", tmp_path / "parts")
    logs = [(tmp_path / each / "metrics.jsonl").read_text() for each in ("whole", "parts")]
    assert logs[0] == logs[1]
    states = [load_checkpoint(tmp_path / each / "checkpoints")[1] for each in ("whole", "parts")]  # type: ignore[index]
    assert states[0]["best"] == states[1]["best"] == {"images_seen": 16, "value": 3.0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("position", [8, 32, 48])
def test_a_signal_ends_an_evaluation_which_is_done_again(
    tmp_path: Path, position: int, number: int
) -> None:
    run(tmp_path / "whole")
    asked: list[int] = []

    def look(images_seen: int) -> dict[str, Any]:
        asked.append(images_seen)
        if images_seen == position:
            os.kill(os.getpid(), number)
            raise AssertionError("the evaluation went on")
        return evaluate(images_seen)

    for _ in range(2):  # the second time while it is being done again
        with pytest.raises(SystemExit) as stopped:
            run(tmp_path / "parts", look)
        assert stopped.value.code == EXIT_PREEMPTED
    assert asked == [*range(8, position, 8), position, position]
    update = run(tmp_path / "parts")
    assert [seen for seen, _ in update.seen] == list(range(position, 48, 8))
    logs = [(tmp_path / each / "metrics.jsonl").read_text() for each in ("whole", "parts")]
    assert logs[0] == logs[1]
    if position != 8:  # a stop at 8 leaves a checkpoint there, which is gone by the end
        assert same_files(tmp_path / "whole", tmp_path / "parts")


def test_a_repeated_evaluation_is_logged_once_whenever_the_run_is_killed(tmp_path: Path) -> None:
    """Stopped while evaluating, resumed, evaluated, and killed before the next checkpoint."""
    run(tmp_path / "whole")

    def stop(images_seen: int) -> dict[str, Any]:
        if images_seen == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(images_seen)

    def kill(images_seen: int) -> dict[str, Any]:
        if images_seen == 48:
            raise KeyboardInterrupt
        return evaluate(images_seen)

    with pytest.raises(SystemExit):
        run(tmp_path / "parts", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", kill)
    run(tmp_path / "parts")
    logs = [(tmp_path / each / "metrics.jsonl").read_text() for each in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_signal_during_a_save_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, signalled = checkpoint.write_synced, threading.Event()

    def slow(path: Path, pieces: Any) -> None:
        signalled.wait(60)
        time.sleep(0.05)
        write(path, pieces)

    update = Moving()
    step = update.update

    def signal_amid(batch: Batch) -> dict[str, torch.Tensor]:
        if batch.images_seen == 8:  # the checkpoint of 8 images is being written
            assert not (tmp_path / "checkpoints" / "step_000000000008").exists()
            os.kill(os.getpid(), signal.SIGTERM)
            signalled.set()
        return step(batch)

    update.update = signal_amid  # type: ignore[method-assign]
    monkeypatch.setattr(checkpoint, "write_synced", slow)
    with pytest.raises(SystemExit) as stopped:
        train_line(tmp_path, update, evaluate=evaluate, evaluate_every=8, goal=LOWEST)
    assert stopped.value.code == EXIT_PREEMPTED
    assert kept(tmp_path) == [8, 16]
    for position in (8, 16):
        assert read_checkpoint(tmp_path / "checkpoints", position)[1]["images_seen"] == position


def insist_on_ending(folder: Path) -> None:
    """A second signal while the run saves after the first; it should never come back."""

    def look(images_seen: int) -> dict[str, Any]:
        if images_seen == 16:
            while not (folder / "checkpoints" / "step_000000000008").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(images_seen)

    def insist(*_: Any) -> None:
        signals = loop.StopRequests.latest  # type: ignore[attr-defined]
        signals._signals._first[signal.SIGTERM] -= 1  # a second ago
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1)

    enter = loop.StopRequests.__enter__

    def entered(self: loop.StopRequests) -> loop.StopRequests:
        loop.StopRequests.latest = self  # type: ignore[attr-defined]
        return enter(self)

    loop.StopRequests.__enter__ = entered  # type: ignore[method-assign,assignment]
    loop._Session.stop = insist  # type: ignore[method-assign,assignment]
    run(folder, look)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """In a process of its own, since it dies of it; the checkpoint from before is whole."""
    assert ended(insist_on_ending, tmp_path) == -signal.SIGTERM
    assert load_checkpoint(tmp_path / "checkpoints")[1]["images_seen"] == 8  # type: ignore[index]
