"""Commands as functions: what a command does to its process is undone after it, and flags are arguments."""

import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from nacgen.errors import NacgenError
from nacgen.system.signals import Stopped
from nacgen.system.terminal import prints_results, spelling


@contextmanager
def as_function(spelled: Callable[[str], str] = str) -> Iterator[None]:
    """Run a command in a block: it prints no result, and leaves warnings and torch's generators as they were.

    `spelled` turns flags in its messages into arguments, in those of errors, too.
    Ctrl-C that stopped it is a `KeyboardInterrupt`; SIGTERM stays a `SystemExit` with the code of a stopped run.
    """
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    token, words = prints_results.set(False), spelling.set(spelled)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            yield
    except Stopped as end:
        if end.number != signal.SIGINT:
            raise
        raise KeyboardInterrupt("stopped and saved; the same call goes on") from end
    except NacgenError as error:
        error.args = (spelled(str(error)), *error.args[1:])
        raise
    finally:
        prints_results.reset(token)
        spelling.reset(words)
