"""One run folder and several processes that know nothing of one another."""

import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.training.checkpoint import load_checkpoint
from tests.faults.small_runs import BATCH, fingerprint
from tests.faults.trials import SCALE, TIMEOUT_SECONDS, killed_at_the_end, run, start, whole_run


@dataclass(frozen=True)
class StartTogether:
    """Waits, just before the run folder is made and locked, until the signal to start is there.

    Args:
        line: Folder in which each process says that it is ready.
        name: Of this one.
    """

    line: Path
    name: str

    def __call__(self) -> None:
        from nacgen.training import run

        hold = run.hold_folder

        def together(*args: Any) -> Any:
            (self.line / self.name).touch()
            while not (self.line / "go").exists():
                pass
            return hold(*args)

        run.hold_folder = together


def test_of_two_runs_in_one_folder_exactly_one_trains(tmp_path: Path, record_property) -> None:  # type: ignore[no-untyped-def]
    """Two processes that lock one folder at the same moment: one trains to its end, as if alone, the
    other ends with exit code 7 and names the first one's process and host."""
    expected = whole_run(tmp_path / "whole", "vae")
    for race in range(SCALE):
        line = tmp_path / f"line{race}"
        line.mkdir()
        folder, names = tmp_path / f"run{race}", ("one", "other")
        sessions = []
        for name in names:
            session = start(folder, "vae", StartTogether(line, name), log=line / f"{name}.log")
            sessions.append(session)
        with killed_at_the_end(*sessions):
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while len(list(line.glob("o*[er]"))) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            (line / "go").touch()
            ends = [session.end() for session in sessions]
        assert sorted(end.code for end in ends) == [0, 7], [end.output for end in ends]
        winner, loser = (0, 1) if ends[0].code == 0 else (1, 0)
        owner = f"process {sessions[winner].process.pid} on {socket.gethostname()}"
        assert re.search(rf"in use by {re.escape(owner)}\b", ends[loser].output), ends[loser].output
        assert fingerprint(folder) == expected
    record_property("trials", SCALE)


def test_a_reader_beside_a_run_always_sees_a_whole_checkpoint(  # type: ignore[no-untyped-def]
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property
) -> None:
    """Checkpoints read while a run saves and prunes: each read gives a whole one, no older than the one
    before; nothing is called damaged, and the run is not disturbed."""
    wanted, reads = 4 * SCALE, 0
    expected = whole_run(tmp_path / "whole", "nac")
    for trial in range(1_000):
        folder, position = tmp_path / f"run{trial}", 0
        session = start(folder, "nac")
        with killed_at_the_end(session):
            while session.process.is_alive():
                loaded = load_checkpoint(folder / "checkpoints")
                if loaded is None:
                    assert position == 0
                    continue
                parts, state = loaded
                assert state["images_seen"] >= position
                position = state["images_seen"]
                assert all(torch.isfinite(v).all() for v in parts["encoder"].values())
                reads += 1
                time.sleep(0.005)
            ended = session.end()
        assert ended.code == 0, ended.output
        assert fingerprint(folder) == expected
        assert "damaged" not in capsys.readouterr().err
        if reads >= wanted:
            break
    record_property("trials", reads)


def test_a_run_that_was_killed_leaves_its_folder_free(tmp_path: Path) -> None:
    """The lock of a process that SIGKILL ended holds nobody up."""
    session = start(tmp_path / "run", "vae-short")
    while session.process.is_alive() and not (tmp_path / "run" / ".lock").exists():
        time.sleep(0.002)
    session.process.kill()
    session.end()
    assert run(tmp_path / "run", "vae-short").code == 0
    assert len(list((tmp_path / "run" / "checkpoints").glob(f"step_*{6 * BATCH}"))) == 1
