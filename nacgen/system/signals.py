"""What a process owes to the one that started it: to stop when told to, and when the other is gone."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

PR_SET_PDEATHSIG = 1  # linux/prctl.h
ECHO_SECONDS = 0.5
# Of what they set in each process that they start, torchrun and accelerate launch, what nobody exports.
LAUNCHER_MARKS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_MODE")


def stop_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent dies, be it by SIGKILL; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_with_launcher() -> None:
    """The same where the parent is a launcher: `accelerate launch` dies of SIGTERM and tells no one."""
    if any(mark in os.environ for mark in LAUNCHER_MARKS):
        stop_with_parent()


class StopSignals:
    """Tells a second signal of one kind, which is to act at once, from the echo of the first.

    A terminal or a scheduler signals launcher and recipe alike, and then the launcher passes it on, or
    dies of it.
    """

    def __init__(self) -> None:
        self._first: dict[int, float] = {}

    def is_repeated(self, number: int) -> bool:
        """Note a signal, and say whether it came before, not counting the last half second.

        Args:
            number: The signal.

        Returns:
            Whether somebody insists.
        """
        now = time.monotonic()
        return now - self._first.setdefault(number, now) > ECHO_SECONDS


class InterruptedBlock(BaseException):
    """A signal has ended a block that it may end."""


class StopRequests:
    """Once entered, takes the first SIGTERM or SIGINT as a request to save and stop; a second acts at once."""

    def __init__(self) -> None:
        self.is_requested = False
        self._signals, self._previous = StopSignals(), dict[int, Any]()
        self._is_interruptible = False

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """A block that a request ends at once, since all of it can be done again.

        Yields:
            Nothing.

        Raises:
            InterruptedBlock: There was a request, before the block or in it.
        """
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
        self.is_requested = True
        if self._is_interruptible:
            self._is_interruptible = False  # what the block has to tidy up is not disturbed
            raise InterruptedBlock
