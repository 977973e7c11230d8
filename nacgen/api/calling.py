"""Commands as functions: what a command does to its process is undone after it."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nacgen.system.signals import Stopped
from nacgen.system.terminal import prints_results


@contextmanager
def as_function() -> Iterator[None]:
    """Run a command in a block: it prints no result, and leaves warnings and torch's generators as they were.

    Ctrl-C that stopped it is a `KeyboardInterrupt`; SIGTERM stays a `SystemExit` with the code of a stopped run.
    """
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    token = prints_results.set(False)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            yield
    except Stopped as end:
        if end.number != signal.SIGINT:
            raise
        raise KeyboardInterrupt("stopped and saved; the same call goes on") from end
    finally:
        prints_results.reset(token)
