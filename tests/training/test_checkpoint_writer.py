"""Checkpoints that are written while training goes on: nothing is lost, mixed up, or left half done."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.data.stream import Batch
from nacgen.errors import LockedError, NonFiniteError, StorageError
from nacgen.system import files
from nacgen.system.locks import lock_folder
from nacgen.system.tensor_file import copy_serialized, serialized
from nacgen.training import checkpoint, checkpoint_writer, loop
from nacgen.training.checkpoint import load_checkpoint, read_checkpoint
from nacgen.training.checkpoint_writer import CheckpointWriter
from tests.processes import ended
from tests.training.test_loop import LineUpdate, train_line

FULL = OSError(errno.ENOSPC, "No space left on device")


class Moving(LineUpdate):
    """Its weights tell how many steps it has taken; something may happen before a step."""

    def __init__(self, before: Callable[[int], None] = lambda images_seen: None) -> None:
        super().__init__()
        self.before = before

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.before(batch.images_seen)
        with torch.no_grad():
            self.line[0].add_(1)
        return super().update(batch)


class Writing:
    """Files of checkpoints, which are written once `go` is set, or raise an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.go, self.begun, self.error = threading.Event(), threading.Event(), error
        self.threads: set[threading.Thread] = set()
        self._write = checkpoint.write_synced
        monkeypatch.setattr(checkpoint, "write_synced", self)

    def __call__(self, path: Path, pieces: Any) -> None:
        self.begun.set()
        self.threads.add(threading.current_thread())
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        self._write(path, pieces)


def step_of(folder: Path, position: int) -> float:
    parts, _ = read_checkpoint(folder / "checkpoints", position)
    return float(parts["line"]["0"][0]) - 1


def positions(folder: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (folder / "checkpoints").glob("step_*"))


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of 16 images holds the state and the log of 16 images, though it is written after step 32."""
    writing = Writing(monkeypatch)

    def before(images_seen: int) -> None:
        if images_seen == 24:
            assert writing.begun.wait(60)
            assert positions(tmp_path) == []
            writing.go.set()

    train_line(tmp_path, Moving(before), run={"checkpoint_every": 16})
    assert threading.main_thread() not in writing.threads
    assert positions(tmp_path) == [32, 48]
    assert [step_of(tmp_path, seen) for seen in (32, 48)] == [4, 6]


def test_later_steps_do_not_change_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(monkeypatch)

    def before(images_seen: int) -> None:
        if images_seen == 40:
            writing.go.set()

    train_line(tmp_path, Moving(before), run={"checkpoint_every": 24})
    assert [step_of(tmp_path, seen) for seen in (24, 48)] == [3, 6]
    rows = read_checkpoint(tmp_path / "checkpoints", 24)[0]["log"]["rows"].numpy().tobytes()
    assert rows == b"".join((tmp_path / "metrics.jsonl").read_bytes().splitlines(True)[:3])


def test_a_second_save_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two saves one step apart: one file at a time is in flight, and both are whole."""
    writing, seen = Writing(monkeypatch), []

    def before(images_seen: int) -> None:
        seen.append(images_seen)
        if images_seen == 8:
            threading.Timer(0.2, writing.go.set).start()
        if images_seen == 16:  # the save of 16 images has begun, so that of 8 has ended
            assert positions(tmp_path)[0] == 8

    train_line(tmp_path, Moving(before), run={"checkpoint_every": 8})
    assert seen == list(range(0, 48, 8))
    assert positions(tmp_path) == [40, 48]


@pytest.mark.parametrize("every", [16, 32, 48])  # told at the next save or step, or at the end
def test_an_error_of_the_writer_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    train_line(tmp_path / "whole", Moving(), run={"checkpoint_every": 16})
    writing = Writing(monkeypatch, FULL)
    update = Moving()
    writing.go.set()
    message = rf"step_0+{every} cannot be written \(.*No space.*\)\. Free space, or choose another"
    with pytest.raises(StorageError, match=message):
        train_line(tmp_path / "parts", update, run={"checkpoint_every": every})
    assert len(update.seen) >= every // 8
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == []
    monkeypatch.undo()
    train_line(tmp_path / "parts", Moving(), run={"checkpoint_every": every})
    logs = [(tmp_path / part / "metrics.jsonl").read_bytes() for part in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert step_of(tmp_path / "parts", 48) == 6


def test_an_error_of_the_writer_is_raised_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, update = Writing(monkeypatch, FULL), Moving()

    def before(images_seen: int) -> None:
        if images_seen == 16:
            assert writing.begun.wait(60)
            writing.go.set()
            deadline = time.monotonic() + 60
            while list((tmp_path / "checkpoints").iterdir()):
                assert time.monotonic() < deadline
            time.sleep(0.1)

    update.before = before
    with pytest.raises(StorageError, match="step_000000000016 cannot be written"):
        train_line(tmp_path, update, run={"checkpoint_every": 16})
    assert [seen for seen, _ in update.seen] == [0, 8, 16]


def test_another_error_waits_for_the_writer_and_both_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss that is not finite ends the run: the checkpoint before it is finished, or its error told."""

    def spoilt(images_seen: int) -> None:
        if images_seen == 16:
            threading.Timer(0.1, writing.go.set).start()
            raise NonFiniteError("the loss must stay finite, but is nan. Lower the rate.")

    for name, error in (("good", None), ("full", FULL)):
        with monkeypatch.context() as patch:
            writing = Writing(patch, error)
            with pytest.raises(NonFiniteError):
                train_line(tmp_path / name, Moving(spoilt))
        told = capsys.readouterr().err
        assert ("error of the last checkpoint: the checkpoint" in told) == (error is not None)
        assert positions(tmp_path / name) == ([] if error else [16])


def test_a_writer_leaves_a_folder_alone_that_another_run_has_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, locks = Writing(monkeypatch), []

    def before(images_seen: int) -> None:
        if images_seen == 16:
            (tmp_path / ".lock").unlink()
            locks.append(lock_folder(tmp_path))
            writing.go.set()

    with pytest.raises(LockedError, match="another run has begun in it"):
        train_line(tmp_path, Moving(before), run={"log_every": 16})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == []
    locks[0].close()


def test_without_memory_for_a_copy_training_waits_and_is_told_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(*_: Any) -> None:
        raise MemoryError("96 bytes cannot be allocated")

    monkeypatch.setattr(checkpoint_writer, "copy_serialized", lacking)
    update = Moving(lambda seen: None if seen % 16 else _assert_last(tmp_path, seen))
    train_line(tmp_path, update)
    assert positions(tmp_path) == [32, 48]
    assert [step_of(tmp_path, seen) for seen in (32, 48)] == [4, 6]
    assert capsys.readouterr().err.count("no memory to copy the state") == 1


def _assert_last(folder: Path, images_seen: int) -> None:
    assert images_seen == 0 or positions(folder)[-1] == images_seen


def test_a_copy_is_the_file_that_is_written_at_once(tmp_path: Path) -> None:
    """Buffers that are used again hold no remains, and tensors of every kind are where they belong."""
    tensors = {
        "double": torch.randn(3, 2, dtype=torch.float64),
        "half": torch.randn(3).bfloat16(),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "turned": torch.randn(3, 2).t(),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
        "number": torch.tensor(0.5),
        "grown": torch.nn.Parameter(torch.randn(2)),
    }
    copy = copy_serialized(tensors)
    assert copy.numpy().tobytes() == b"".join(serialized(tensors))
    assert copy.data_ptr() % files.BLOCK == 0
    again = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    reused = copy_serialized(again, copy)
    assert reused is copy
    assert reused.numpy().tobytes() == b"".join(serialized(again))
    assert copy_serialized({"other": torch.ones(3)}, copy) is not copy


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    assert ended(save_and_die, tmp_path) == 9
    assert load_checkpoint(tmp_path / "checkpoints")[1]["images_seen"] == 16  # type: ignore[index]
    train_line(tmp_path, Moving())
    assert step_of(tmp_path, 48) == 6
    assert not list((tmp_path / "checkpoints").glob(".*"))


def save_and_die(folder: Path) -> None:
    """Die in the step after the second checkpoint's first file was opened."""
    write, begun = checkpoint.write_synced, threading.Event()

    def hanging(path: Path, pieces: Any) -> None:
        if positions(folder):
            begun.set()
            time.sleep(60)
        write(path, pieces)

    def before(images_seen: int) -> None:
        if images_seen == 32:
            begun.wait(60)
            os._exit(9)

    checkpoint.write_synced = hanging
    train_line(folder, Moving(before))


def test_a_runs_rate_leaves_the_waits_for_its_checkpoints_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, wait = loop._Clock.paused, CheckpointWriter.wait
    inside, waits = list[int](), list[bool]()

    @contextmanager
    def noted(clock: loop._Clock) -> Iterator[None]:
        inside.append(1)
        with paused(clock):
            yield
        inside.pop()

    def noted_wait(writer: CheckpointWriter) -> None:
        if writer._job is not None and (inside or not writer._job.done()):  # others take no time
            waits.append(bool(inside))
        wait(writer)

    monkeypatch.setattr(loop._Clock, "paused", noted)
    monkeypatch.setattr(CheckpointWriter, "wait", noted_wait)
    train_line(tmp_path, Moving(), run={"checkpoint_every": 24})
    assert waits
    assert all(waits)
