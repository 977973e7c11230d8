"""Trials: sessions of a run, each in a process forked from one that has imported torch already."""

import contextlib
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer would, in every trial

from nacgen.training.command import run_recipe
from nacgen.training.config import TrainingConfig
from tests.faults import small_runs
from tests.processes import server

SCALE = int(os.environ.get("NACGEN_FAULTS_SCALE", "1"))  # times as many trials, as run.py asks for
FULL = SCALE > 1  # every point in place of a few
TIMEOUT_SECONDS = 120.0

Preparation = Callable[[], None]


@dataclass(frozen=True)
class Ended:
    """How a session ended.

    Args:
        code: Its exit code, below 0 for a signal.
        output: All that it printed.
    """

    code: int
    output: str


@dataclass
class Session:
    """A session that goes on.

    Args:
        process: Its process.
        log: What it prints.
    """

    process: BaseProcess
    log: Path

    def end(self, timeout: float = TIMEOUT_SECONDS) -> Ended:
        """Wait for it; one that hangs is killed and fails the test."""
        self.process.join(timeout)
        hung = self.process.is_alive()
        if hung:
            self.process.kill()
            self.process.join()
        output = self.log.read_text(encoding="utf-8", errors="replace")
        assert not hung, f"still running after {timeout} s: {output[-2000:]}"
        assert self.process.exitcode is not None
        return Ended(self.process.exitcode, output)


def start(
    folder: Path,
    preset: str,
    *preparations: Preparation,
    log: Path | None = None,
    environment: dict[str, str] | None = None,
) -> Session:
    """Begin a session of the small recipe.

    Args:
        folder: Its run folder.
        preset: Of `small_runs.PRESETS`.
        preparations: Called in the new process before the recipe, picklable.
        log: What it prints; beside the folder where none is given.
        environment: Variables of the new process.
    """
    log = log or folder.with_name(f"{folder.name}.log")
    flags = ("--preset", preset, "--run-dir", str(folder))
    process = server().Process(target=_session, args=(flags, log, preparations, environment or {}))
    process.start()
    return Session(process, log)


def run(folder: Path, preset: str, *preparations: Preparation) -> Ended:
    """A session from its start to its end."""
    return start(folder, preset, *preparations).end()


def start_script(
    script: Path, flags: Sequence[str], log: Path, *preparations: Preparation
) -> Session:
    """Begin a session of a real recipe.

    Args:
        script: Its file.
        flags: Its flags.
        log: What it prints.
        preparations: As of `start`.
    """
    process = server().Process(target=_script, args=(script, flags, log, preparations))
    process.start()
    return Session(process, log)


def _session(
    flags: Sequence[str],
    log: Path,
    preparations: Sequence[Preparation],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    _prepare(["small", *flags], log, preparations)
    run_recipe(small_runs.main, TrainingConfig, small_runs.PRESETS)


def _script(
    script: Path, flags: Sequence[str], log: Path, preparations: Sequence[Preparation]
) -> None:
    _prepare([str(script), *flags], log, preparations)
    runpy.run_path(str(script), run_name="__main__")


def _prepare(argv: list[str], log: Path, preparations: Sequence[Preparation]) -> None:
    torch.set_num_threads(1)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where tests run in the background
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout, sys.stderr = (
        open(standard, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        for standard in (1, 2)
    )
    sys.argv = argv
    for prepare in preparations:
        prepare()


def whole_run(folder: Path, preset: str) -> small_runs.Fingerprint:
    """The fingerprint of an uninterrupted run."""
    ended = run(folder, preset)
    assert ended.code == 0, ended.output
    return small_runs.fingerprint(folder)


@contextlib.contextmanager
def killed_at_the_end(*sessions: Session) -> Iterator[None]:
    """Leave no session behind, whatever a test does."""
    try:
        yield
    finally:
        for session in sessions:
            if session.process.is_alive():
                session.process.kill()
            session.process.join()
