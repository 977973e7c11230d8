"""What a process owes to the one that started it: to stop when told to, and when the other is gone."""

import ctypes
import os
import signal
import sys
import time

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
