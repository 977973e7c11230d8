"""Signals: stopping a run on request, and stopping a process whose parent has ended."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from nacgen.errors import EXIT_PREEMPTED

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ECHO_SECONDS = 0.5
# Variables that torchrun and accelerate launch set for each of their processes, and nobody exports.
LAUNCHER_MARKS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_MODE")


def stop_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent dies; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_with_launcher() -> None:
    """Do so if the parent is a launcher: `accelerate launch` dies of SIGTERM without a signal to its children."""
    if any(mark in os.environ for mark in LAUNCHER_MARKS):
        stop_with_parent()


class StopSignals:
    """A memory of signals that distinguishes a second signal from the echo of the first.

    A terminal or a scheduler signals both launcher and recipe. The launcher then passes the signal on, or
    dies of it.
    """

    def __init__(self) -> None:
        self._first: dict[int, float] = {}

    def is_repeated(self, number: int) -> bool:
        """Note a signal, and return True if it already came more than half a second ago."""
        now = time.monotonic()
        return now - self._first.setdefault(number, now) > ECHO_SECONDS


class Stopped(SystemExit):
    """The end of a process that a signal stopped after it saved; `number` is the signal's, if it came here."""

    def __init__(self, number: int | None) -> None:
        super().__init__(EXIT_PREEMPTED)
        self.number = number


class InterruptedBlock(BaseException):
    """The end of an interruptible block by a signal."""


class StopRequests:
    """A context that takes the first SIGTERM or SIGINT as a request to save and stop; a second acts at once."""

    def __init__(self) -> None:
        self.is_requested = False
        self.number: int | None = None
        self._signals, self._previous = StopSignals(), dict[int, Any]()
        self._is_interruptible = False

    def __enter__(self) -> Self:
        """Replace the signal handlers; outside the main thread, where Python allows none, leave them."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Run a block that a request may end by an `InterruptedBlock`, because it can be repeated."""
        self._is_interruptible = True
        try:
            if self.is_requested:
                raise InterruptedBlock
            yield
        finally:
            self._is_interruptible = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signals.is_repeated(number):
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
        self.is_requested, self.number = True, number
        if self._is_interruptible:
            self._is_interruptible = False  # the block may tidy up undisturbed
            raise InterruptedBlock
