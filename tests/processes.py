"""Processes for tests, forked from one that has imported torch and has but one thread.

A process of pytest must not fork: threads of torch's that it has used do not exist in its children, which wait for
them for ever.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any


def server() -> ForkServerContext:
    """Whose processes start within milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.faults.trials"])
    return context


def ended(work: Callable[..., None], *args: Any, timeout: float = 120.0) -> int:
    """Exit code of a process that did some work, below 0 for a signal.

    Args:
        work: A function of a module.
        args: Its arguments, picklable.
        timeout: Seconds until it is killed and the test fails.
    """
    process = server().Process(target=work, args=args)
    process.start()
    process.join(timeout)
    if hung := process.is_alive():
        process.kill()
        process.join()
    assert not hung, f"still running after {timeout} s"
    assert process.exitcode is not None
    return process.exitcode
