"""Threads that decode image files.

Pillow releases the interpreter's lock while it decodes and resizes, so threads suffice: nothing is sent between
processes. They are daemons: one that hangs on a dead disk does not keep the process from ending. The others end
before the interpreter does, for a thread that it finds within torch aborts the process.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from nacgen.errors import DataError

T = TypeVar("T")

NUM_THREADS = min(16, os.cpu_count() or 1)
TIMEOUT_S = 120.0  # for one file, once all before it in the same batch are done
PATIENCE_S = 1.0  # for all threads together, as the process ends
BLOCK = 1024  # files that are under way at once where there are many


class Decoders:
    """A fixed number of threads that take files from one queue.

    Args:
        num_threads: How many.
    """

    def __init__(self, num_threads: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[str], Any], str] | None]
        self._tasks = SimpleQueue()
        self._process_id = os.getpid()
        self._threads = [
            Thread(target=self._work, name=f"decode-{i}", daemon=True) for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self._end)

    def submit(self, work: Callable[[str], T], path: str) -> Future[T]:
        """Have a thread work on a file.

        Args:
            work: Takes the path.
            path: Of the file.

        Returns:
            What comes of it; see `result_of`.
        """
        future: Future[T] = Future()
        self._tasks.put((future, work, path))
        return future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, work, path = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(path))
                except BaseException as error:
                    future.set_exception(error)
            del task, future, work  # and with them the batch

    def _end(self) -> None:
        """Begin no more files, and wait a moment for those that were begun."""
        if os.getpid() != self._process_id:  # a fork has none of these threads
            return
        try:
            while (task := self._tasks.get_nowait()) is not None:
                task[0].cancel()
        except Empty:
            pass
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


@cache
def _decoders(num_threads: int, process_id: int) -> Decoders:
    return Decoders(num_threads)


def decoders(num_threads: int = NUM_THREADS) -> Decoders:
    """The threads of this process; after a fork the child has its own.

    Args:
        num_threads: How many.

    Returns:
        The same for every call with this number.
    """
    return _decoders(num_threads, os.getpid())


def result_of(task: Future[T], path: str) -> T:
    """Wait for what comes of a file, but not for ever.

    Args:
        task: From `Decoders.submit`.
        path: Of the file.

    Returns:
        What its work gave.

    Raises:
        DataError: The work failed, or took too long; the file is named.
    """
    try:
        return task.result(TIMEOUT_S)
    except DataError:
        raise
    except Exception as error:
        if not task.done():
            raise DataError(
                f"{path} must be decoded within {TIMEOUT_S:g} s, but is not. Does the disk or the network that "
                "it lies on still answer?"
            ) from error
        raise DataError(
            f"{path} must be decoded, but its thread failed ({type(error).__name__}: {error})."
        ) from error


def try_each(paths: Sequence[str], work: Callable[[str], T]) -> Iterator[T | DataError]:
    """Work on files in several threads.

    Args:
        paths: Of the files.
        work: Takes a path.

    Yields:
        For each file, in their order, what its work gave, or the error that names it.
    """
    pool = decoders()
    for start in range(0, len(paths), BLOCK):
        block = paths[start : start + BLOCK]
        for path, task in [(path, pool.submit(work, path)) for path in block]:
            try:
                yield result_of(task, path)
            except DataError as error:
                yield error
