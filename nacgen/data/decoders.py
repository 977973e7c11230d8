"""Threads that decode image files.

Pillow releases the interpreter's lock while it decodes and resizes, so threads suffice and nothing is sent between
processes. They are daemons, so one that hangs on a dead disk does not keep the process from ending. The others end
before the interpreter does, because a thread inside torch at that moment aborts the process.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from nacgen.errors import DataError
from nacgen.system.threads import count_cores

T = TypeVar("T")

TIMEOUT_S = 120.0  # for one file, from the moment that a thread takes it
PATIENCE_S = 1.0  # for all threads together, when the process ends
BLOCK = 1024  # files in progress at once


class Decoders:
    """Threads that take files from one queue; one that takes too long for a file is given up and replaced."""

    num_threads = min(16, count_cores())  # unless it is changed before files are read

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[str], Any], str] | None]
        self._tasks = SimpleQueue()
        self._process_id = os.getpid()
        self._begun: dict[Future[Any], tuple[str, float]] = {}  # files in progress, and since when
        self._lock = Lock()
        self._threads: list[Thread] = []
        for _ in range(self.num_threads):
            self._start_thread()
        atexit.register(self._end)

    def _start_thread(self) -> None:
        name = f"decode-{len(self._threads)}"
        self._threads.append(Thread(target=self._work, name=name, daemon=True))
        self._threads[-1].start()

    def submit(self, work: Callable[[str], T], path: str) -> Future[T]:
        """Let a thread call `work` with a path; `result_of` waits for the result."""
        future: Future[T] = Future()
        self._tasks.put((future, work, path))
        return future

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, work, path = task
            if future.set_running_or_notify_cancel():
                self._begun[future] = path, time.monotonic()
                result, failure = None, None
                try:
                    result = work(path)
                except BaseException as error:
                    failure = error
                with self._lock:
                    if self._begun.pop(future, None) is None:  # given up
                        return
                if failure is None:
                    future.set_result(result)
                else:
                    future.set_exception(failure)
                del result, failure
            del task, future, work  # which hold the batch

    def give_up_slow(self) -> None:
        """Let files in progress for more than `TIMEOUT_S` fail, and others take their threads' places."""
        with self._lock:
            for future, (path, start) in list(self._begun.items()):
                if time.monotonic() - start > TIMEOUT_S:
                    del self._begun[future]
                    error = DataError(
                        f"{path} must be decoded within {TIMEOUT_S:g} s, but is not. Repair or remove it, or "
                        "check that its disk or network still answers."
                    )
                    error.__cause__ = TimeoutError(f"it takes more than {TIMEOUT_S:g} s")
                    future.set_exception(error)
                    self._start_thread()

    def _end(self) -> None:
        """Cancel waiting files, and wait a moment for those in progress."""
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
def _decoders(process_id: int) -> Decoders:
    return Decoders()


def decoders() -> Decoders:
    """Return this process's threads, the same for every call; a forked child gets its own."""
    return _decoders(os.getpid())


def result_of(task: Future[T], path: str) -> T:
    """Return the result of `Decoders.submit`; a failure, or more than `TIMEOUT_S`, is a `DataError`."""
    while not task.done():
        try:
            task.exception(min(1.0, TIMEOUT_S))
        except TimeoutError:
            decoders().give_up_slow()
    try:
        return task.result()
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} must be decoded, but its thread failed ({type(error).__name__}: {error})."
        ) from error


def try_each(paths: Sequence[str], work: Callable[[str], T]) -> Iterator[T | DataError]:
    """Call `work` with each path in several threads, and yield each result, or its `DataError`, in order."""
    pool = decoders()
    for start in range(0, len(paths), BLOCK):
        block = paths[start : start + BLOCK]
        for path, task in [(path, pool.submit(work, path)) for path in block]:
            try:
                yield result_of(task, path)
            except DataError as error:
                yield error
