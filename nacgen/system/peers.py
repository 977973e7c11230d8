"""What processes owe one another: a word before one ends, and its name where it had no time for one."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from nacgen.errors import LostProcessError, NacgenError
from nacgen.system.processes import decode_error, encode_error

SECONDS_TO_ANSWER = 2.0


def error_of_all(error: Exception) -> Exception:
    """The error that this process should end with, in view of how the others end.

    A process that fails alone leaves word in the store that all met at. The others, whose exchange with it breaks
    off or times out, find it there and end with the same error. Where there is no word, they say who is silent.

    Args:
        error: Of this process.

    Returns:
        The same, or where it is but the echo of another process's end an error that says so.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return error
    with _undisturbed():
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set_timeout(timedelta(seconds=SECONDS_TO_ANSWER))
            return _compare(error, store)
        except RuntimeError:  # the process that kept the store is gone, and all words with it
            return _lost("the first process") if _is_of_exchange(error) else error


def _compare(error: Exception, store: Any) -> Exception:
    rank, size = dist.get_rank(), dist.get_world_size()
    others = [other for other in range(size) if other != rank]
    if not isinstance(error, NacgenError):
        for other in others:
            if store.check([f"nacgen/end/{other}"]):
                return decode_error(other, store.get(f"nacgen/end/{other}"))
    if not _is_of_exchange(error):
        store.set(f"nacgen/end/{rank}", encode_error(error))
        return error
    store.set(f"nacgen/here/{rank}", b"1")
    deadline = time.monotonic() + SECONDS_TO_ANSWER * (size > 2)  # of two, it is the other
    while silent := [other for other in others if not store.check([f"nacgen/here/{other}"])]:
        if time.monotonic() >= deadline:
            return _lost(" and ".join(f"process {other}" for other in silent))
        time.sleep(0.05)
    return LostProcessError(f"the connection between processes broke, though all answer ({error}).")


def _lost(who: str) -> LostProcessError:
    return LostProcessError(
        f"{who} no longer answers: killed, stuck, or cut off. Its own messages or the system's log may say why; "
        "the same command goes on from the last checkpoint. Where it was merely slow, raise --run.timeout."
    )


def _is_of_exchange(error: Exception) -> bool:
    """Whether a collective failed, as its libraries say it."""
    told = any(word in str(error).lower() for word in ("gloo", "nccl", "connection closed by peer"))
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and told)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A launcher asks all processes to stop as soon as one has ended; there is no more to save by then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
