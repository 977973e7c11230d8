"""Agreeing on one error when a process of several fails, and naming a process that was lost.

A process that fails alone writes its error into the key-value store through which all processes met. The
others, whose exchange with it breaks off or times out, find it there and end with the same error.
"""

import os
import signal
import socket
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


def agreed_error(error: Exception) -> Exception:
    """Return the error that this process should end with, in view of how the others end.

    It is the given error; or that of the process that failed first; or a `LostProcessError` that names the
    processes that no longer answer.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return error
    with _without_sigterm():
        try:
            return _compare(error, _connect())
        except (OSError, dist.DistError):  # the first process, which keeps the store, is gone
            return _lost("the first process") if _is_of_exchange(error) else error


def _connect() -> Any:
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # A plain socket fails silently and at once; torch's client retries and prints stack traces.
    socket.create_connection(address, timeout=SECONDS_TO_ANSWER).close()
    stores: Any = dist  # torch documents its stores, but its type stubs do not export them
    seconds = timedelta(seconds=SECONDS_TO_ANSWER)
    store = stores.TCPStore(*address, is_master=False, timeout=seconds)
    # Under torchrun the store outlives a restart of the processes, and so would their errors.
    return stores.PrefixStore(f"nacgen/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _compare(error: Exception, store: Any) -> Exception:
    rank, size = dist.get_rank(), dist.get_world_size()
    others = [other for other in range(size) if other != rank]
    # Another process has told its error: this one is but a consequence.
    if not isinstance(error, NacgenError):
        for other in others:
            if store.check([f"error/{other}"]):
                return decode_error(other, store.get(f"error/{other}"))
    # The error arose here: tell the others.
    if not _is_of_exchange(error):
        store.set(f"error/{rank}", encode_error(error))
        return error
    # Nobody has told an error: find out who is silent. Of two processes, it is the other one.
    store.set(f"alive/{rank}", b"1")
    deadline = time.monotonic() + SECONDS_TO_ANSWER * (size > 2)
    while silent := [other for other in others if not store.check([f"alive/{other}"])]:
        if time.monotonic() >= deadline:
            return _lost(" and ".join(f"process {other}" for other in silent))
        time.sleep(0.05)
    return LostProcessError(f"the connection between processes broke, though all answer ({error}).")


def _lost(who: str) -> LostProcessError:
    return LostProcessError(
        f"{who} no longer answers: killed, stuck, or cut off. Its own messages or the system's log may say why; "
        "the same command continues from the last checkpoint. If it was merely slow, raise --run.timeout."
    )


def _is_of_exchange(error: Exception) -> bool:
    # gloo raises plain RuntimeErrors, which only the path of its source tells from others.
    is_of_gloo = isinstance(error, RuntimeError) and "gloo/" in str(error)
    return isinstance(error, dist.DistError) or is_of_gloo


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """Ignore the SIGTERM that a launcher sends to all processes as soon as one has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
