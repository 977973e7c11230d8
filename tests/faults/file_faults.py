"""A disk that fails at the k-th file operation, or a process that dies there.

Names and folders are met by an audit hook, which sees whatever Python and its libraries ask of the system;
what flows through open files is met by proxies. Operations count if the fault could strike them.
"""

import builtins
import errno
import io
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.small_runs import whole_checkpoints

READ, CREATE, CHANGE = "read", "create", "change"  # kinds of operation
EVENTS = {
    "os.mkdir": CREATE,
    "os.symlink": CREATE,
    "os.link": CREATE,
    "os.rename": CHANGE,
    "os.remove": CHANGE,
    "os.rmdir": CHANGE,
    "os.truncate": CHANGE,
    "fcntl.flock": CHANGE,
    "os.scandir": READ,
    "os.listdir": READ,
}
# What can be struck, and whether everything after it is struck, too.
FAULTS: dict[str, tuple[set[str], bool]] = {
    "SIGKILL": ({READ, CREATE, CHANGE}, False),
    "SIGTERM": ({READ, CREATE, CHANGE}, False),  # raised there, and the operation succeeds
    "EIO": ({READ, CREATE, CHANGE}, False),
    "ENOSPC": ({CREATE}, True),
    "EROFS": ({CREATE, CHANGE}, True),
}


@dataclass
class FileFaults:
    """Strikes one process, which calls `install` as a preparation of its session.

    Args:
        folder: The run folder; operations elsewhere do not count.
        fault: One of FAULTS.
        at: Which operation that it could strike, from 1.
        only: Text that the operation must name; the count is over those.
    """

    folder: Path
    fault: str
    at: int
    only: str = ""

    def __call__(self) -> None:
        """Install it for the rest of this process."""
        self.kinds, self.lasts = FAULTS[self.fault]
        self.count, self.counting = 0, threading.RLock()
        self.open, self.fsync, self.write = io.open, os.fsync, os.write
        io.open = builtins.open = self._opened  # type: ignore[assignment]
        os.fsync, os.write = self._fsync, self._os_write  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def meet(self, kind: str, operation: str, path: object) -> bool:
        """Count an operation; whether it is to be struck; if so, say which checkpoint is whole."""
        inside = str(path).startswith(str(self.folder)) and self.only in f"{operation} {path}"
        if not inside or kind not in self.kinds:
            return False
        with self.counting:  # a checkpoint is written by several threads beside the one that trains
            self.count += 1
            if is_struck := self.count == self.at:
                whole = max(whole_checkpoints(self.folder), default=0)
                self.write(2, f"\nstruck: {operation} {path}\nwhole: {whole}\n".encode())
            return is_struck or (self.lasts and self.count > self.at)

    def strike(self, path: object) -> None:
        """Do what the fault does."""
        if self.fault.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, self.fault))
            return
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number), str(path))

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        kind, path = EVENTS.get(event), args[0] if args else None
        if event == "open" and isinstance(path, str | bytes | os.PathLike):
            created = isinstance(args[2], int) and args[2] & (os.O_CREAT | os.O_TRUNC)
            kind = CREATE if created else READ
        if kind is None:
            return
        path = self._absolute(path, args)
        if self.meet(kind, event, path):
            self.strike(path)

    def _absolute(self, path: object, args: tuple[Any, ...]) -> str:
        if isinstance(path, int):
            return _path_of(path)
        name = os.fsdecode(path)  # type: ignore[arg-type]
        if name.startswith("/"):
            return name
        folder = args[-1] if isinstance(args[-1], int) and args[-1] > 2 else None
        # An open of a name in an open folder does not say which: removing trees does so.
        return f"{self.folder}/…/{name}" if folder is None else f"{_path_of(folder)}/{name}"

    def _opened(self, *args: Any, **kwargs: Any) -> Any:
        file = self.open(*args, **kwargs)
        path = _path_of(file.fileno())
        return _Watched(file, path, self) if path.startswith(str(self.folder)) else file

    def _fsync(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        if self.meet(CREATE, "fsync", _path_of(number)):
            self.strike(_path_of(number))
        self.fsync(number)

    def _os_write(self, descriptor: int, content: bytes) -> int:
        if self.meet(CREATE, "write", _path_of(descriptor)):
            self.strike(_path_of(descriptor))
        return self.write(descriptor, content)


class _Watched:
    """An open file; a write that is struck has reached the disk by half."""

    def __init__(self, file: Any, path: str, faults: FileFaults) -> None:
        self.file, self.path, self.faults = file, path, faults

    def write(self, content: Any) -> int:
        if self.faults.meet(CREATE, "write", self.path):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            self.faults.strike(self.path)
            content = content[len(content) // 2 :]  # a signal that was survived
        written: int = self.file.write(content)
        return written

    def read(self, *args: Any) -> Any:
        if self.faults.meet(READ, "read", self.path):
            self.faults.strike(self.path)
        return self.file.read(*args)

    def truncate(self, *args: Any) -> Any:
        if self.faults.meet(CHANGE, "truncate", self.path):
            self.faults.strike(self.path)
        return self.file.truncate(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Watched":
        self.file.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        return self.file.__exit__(*args)

    def __iter__(self) -> Any:
        return iter(self.file)


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
