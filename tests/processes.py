"""Processes for tests, forked from a server that has imported torch and has only one thread.

A pytest process must not fork: threads of torch that it has used do not exist in its children, which would wait
for them forever.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any


def server() -> ForkServerContext:
    """Return a context whose processes start within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.faults.trials"])
    return context


def ended(work: Callable[..., None], *args: Any, timeout: float = 120.0) -> int:
    """Call a module's function in a process, and return its exit code, below 0 for a signal."""
    process = server().Process(target=work, args=args)
    process.start()
    process.join(timeout)
    if hung := process.is_alive():
        process.kill()
        process.join()
    assert not hung, f"still running after {timeout} s"
    assert process.exitcode is not None
    return process.exitcode
