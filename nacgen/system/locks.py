"""Locking a folder, so that one process at a time works in it."""

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from nacgen.errors import LockedError
from nacgen.system.files import open_text, warn_once


def lock_folder(folder: Path) -> IO[str]:
    """Lock a folder until the returned file is closed or the process ends; a `LockedError` names who holds it."""
    path = folder / ".lock"
    file = open_text(path, "a+")
    try:
        try:
            is_locked = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            warn_once(
                error, f"the file system of {folder} has no locks", "start no second run in it"
            )
            is_locked = True
        # A folder that was moved aside in the meantime took the locked file along.
        if not is_locked or not is_in_place(file):
            raise LockedError(
                f"one run trains in one folder, but {folder} is in use by {_owner(file)}. Wait for it, or choose "
                "another --run-dir."
            )
        file.truncate(0)
        file.write(f" process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except BaseException:
        with contextlib.suppress(OSError):  # closing writes what is left in the buffer
            file.close()
        raise
    return file


def is_in_place(file: IO[str]) -> bool:
    """Tell whether a locked file still has its name, so that nobody else can have locked the folder."""
    try:
        return os.path.samestat(Path(file.name).stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _owner(file: IO[str]) -> str:
    """Return the owner that a lock file names, once its new owner had time to write that."""
    for _ in range(20):
        file.seek(1)  # Windows lets nobody else read the first byte, which is the locked one
        with contextlib.suppress(OSError):
            if owner := file.read().strip():
                return owner
        time.sleep(0.05)
    return "another process"
