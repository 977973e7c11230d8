"""Runs that are killed or asked to stop, and go on as if they had not been."""

import itertools
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.file_faults import FileFaults
from tests.faults.small_runs import (
    BATCH,
    METHODS,
    STEPS,
    Fingerprint,
    debris,
    fingerprint,
    whole_checkpoints,
)
from tests.faults.trials import FULL, SCALE, Preparation, Session, run, start, whole_run

KILLS_PER_RUN = 3
PATIENCE = 1 if FULL else 5  # default tests run beside others


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run.

    Args:
        fingerprint: What others must equal.
        seconds: What it took, from its start.
    """

    fingerprint: Fingerprint
    seconds: float


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """Filled as methods are asked for."""
    return {}


@pytest.fixture
def reference(request: pytest.FixtureRequest, references: dict[str, Reference], tmp_path: Path):  # type: ignore[no-untyped-def]
    def of(method: str) -> Reference:
        if method not in references:
            started = time.monotonic()
            equal = whole_run(tmp_path / "whole", method)
            references[method] = Reference(equal, time.monotonic() - started)
        return references[method]

    return of


@dataclass(frozen=True)
class At:
    """Sends this process a signal before its batch at a position is made.

    Args:
        images_seen: The position.
        number: The signal.
        then_sleep: Seconds that the step then takes.
        saved_in: Run folder in which the checkpoint of the position must be whole before.
    """

    images_seen: int
    number: int = signal.SIGKILL
    then_sleep: float = 0.0
    saved_in: Path | None = None

    def __call__(self) -> None:
        from nacgen.data.stream import Batch, ImageStream

        batch = ImageStream.batch

        def interrupted(stream: ImageStream, images_seen: int) -> Batch:
            if images_seen == self.images_seen:
                while self.saved_in and images_seen not in whole_checkpoints(self.saved_in):
                    time.sleep(0.01)
                os.kill(os.getpid(), self.number)
                time.sleep(self.then_sleep)
            return batch(stream, images_seen)

        ImageStream.batch = interrupted  # type: ignore[method-assign]


@dataclass(frozen=True)
class KilledBeforeItsSummary:
    """Dies when training is over and the last checkpoint written."""

    def __call__(self) -> None:
        from nacgen.training.run import Run

        Run.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign, return-value]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_killed_at_any_moment_ends_as_if_it_had_not_been(  # type: ignore[no-untyped-def]
    tmp_path: Path, method: str, reference, record_property
) -> None:
    """SIGKILL at a uniformly random moment, up to three times a run, in runs that go on until they are
    done: weights, averages, optimizer slots and log are those of the uninterrupted run, bit for bit."""
    whole, draw = reference(method), random.Random(method)
    kills = 0
    for i in itertools.count():
        folder, kills_here = tmp_path / f"run{i}", 0
        while kills < SCALE and kills_here < KILLS_PER_RUN:
            session = start(folder, method)
            session.process.join(draw.uniform(0, 0.7) * whole.seconds)
            session.process.kill()
            if session.end().code == 0:
                break
            kills, kills_here = kills + 1, kills_here + 1
        ended = run(folder, method)
        assert ended.code == 0, ended.output
        assert fingerprint(folder) == whole.fingerprint, folder
        assert not debris(folder)
        shutil.rmtree(folder)
        if kills >= SCALE:
            break
    record_property("trials", kills)


POINTS: dict[str, Preparation] = {
    "before the first step": At(0),
    "after the first": At(BATCH),
    "in the middle": At(30 * BATCH),
    "before the last": At((STEPS - 1) * BATCH),
    "before the summary": KilledBeforeItsSummary(),
}


@pytest.mark.battery
@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_from_its_beginning_its_middle_and_its_end(  # type: ignore[no-untyped-def]
    tmp_path: Path, method: str, reference, record_property
) -> None:
    """Killed before the first, second, middle and last step and before the summary: equal bit for bit;
    a complete run is left as it is, exit code 0."""
    whole = reference(method)
    for point, preparation in POINTS.items():
        folder = tmp_path / point
        assert run(folder, method, preparation).code == -signal.SIGKILL
        assert run(folder, method).code == 0
        assert fingerprint(folder) == whole.fingerprint, point
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    ended = run(folder, method)
    assert ended.code == 0
    assert "complete; nothing to do" in ended.output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    record_property("trials", len(POINTS) + 1)


def _wait_for_rows(folder: Path, num_rows: int, session: Session) -> bool:
    log = folder / "metrics.jsonl"
    while session.process.is_alive():
        if log.exists() and log.read_text().count("\n") >= num_rows:
            return True
        time.sleep(0.002)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_ends_within_two_seconds(  # type: ignore[no-untyped-def]
    tmp_path: Path, number: signal.Signals, reference, record_property
) -> None:
    """SIGTERM or SIGINT at a random step: a checkpoint of the step that was on, exit code 143 within 2 s,
    and the run resumes bit for bit."""
    whole, draw, trials = reference("vae"), random.Random(number), 15 if FULL else 1
    for trial in range(trials):
        folder = tmp_path / str(trial)
        session = start(folder, "vae")
        assert _wait_for_rows(folder, draw.randrange(1, STEPS - 20), session)
        assert session.process.pid is not None
        asked = time.monotonic()
        os.kill(session.process.pid, number)
        ended = session.end()
        assert time.monotonic() - asked <= PATIENCE * 2
        assert ended.code == 143, ended.output
        (position,) = whole_checkpoints(folder)[-1:]
        assert (
            (folder / "metrics.jsonl")
            .read_text()
            .splitlines()[-1]
            .startswith(f'{{"images_seen": {position},')
        )
        assert run(folder, "vae").code == 0
        assert fingerprint(folder) == whole.fingerprint
    record_property("trials", trials)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_second_signal_ends_a_run_at_once(  # type: ignore[no-untyped-def]
    tmp_path: Path, number: signal.Signals, code: int, reference, record_property
) -> None:
    """A step that hangs: the first signal waits for it, the second, more than half a second later, ends
    the run within a second; earlier checkpoints stand and the run resumes bit for bit."""
    whole, trials = reference("vae"), 3 if FULL else 1
    for trial in range(trials):
        folder = tmp_path / str(trial)
        session = start(folder, "vae", At(20 * BATCH, number, then_sleep=60))
        assert _wait_for_rows(folder, 20, session)
        time.sleep(1.6)  # for on a busy machine the first signal comes some time after the row
        assert session.process.is_alive()
        assert session.process.pid is not None
        asked = time.monotonic()
        os.kill(session.process.pid, number)
        ended = session.end()
        assert time.monotonic() - asked <= PATIENCE
        assert ended.code == code, ended.output
        assert whole_checkpoints(folder) == [7 * BATCH, 14 * BATCH]
        assert run(folder, "vae").code == 0
        assert fingerprint(folder) == whole.fingerprint
    record_property("trials", trials)


def test_a_signal_during_a_save_lets_it_finish(tmp_path: Path, reference, record_property) -> None:  # type: ignore[no-untyped-def]
    """SIGTERM at every file operation of three saves and a prune: the checkpoint is whole, exit code 143
    (0 in the last save), and the run resumes bit for bit."""
    whole, trials = reference("vae-short"), 0
    for at in itertools.count(1, 1 if FULL else 25):
        folder = tmp_path / str(at)
        ended = run(folder, "vae-short", FileFaults(folder, "SIGTERM", at, only="/.new-"))
        if "struck" not in ended.output:
            break
        complete = (folder / "summary.json").exists()
        assert ended.code == (0 if complete else 143), ended.output
        assert run(folder, "vae-short").code == 0
        assert fingerprint(folder) == whole.fingerprint
        assert not debris(folder)
        trials += 1
    assert trials > 2
    record_property("trials", trials)
