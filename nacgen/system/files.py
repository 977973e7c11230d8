"""Opening what is a file and nothing else: a pipe would block, a device could be endless."""

import contextlib
import errno
import fcntl
import io
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from nacgen.errors import (
    ConfigurationError,
    LockedError,
    NacgenError,
    StorageError,
    is_storage_failure,
)

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def open_regular(path: str | Path, inside: Path | None = None) -> io.BufferedReader:
    """Open a file to read it; nothing that a stranger can put into its place makes this wait.

    Args:
        path: The file, or a link to it.
        inside: A folder that links must not lead out of. Absent: they may lead anywhere. Links of the Hub's
            cache, from a folder of `snapshots` into the `blobs` beside, stay inside.

    Returns:
        The open file.

    Raises:
        OSError: There is no such file, it is a folder, a pipe, a socket or a device, or a link leads out of the
            folder.
    """
    resolved = os.path.realpath(path)
    if inside is not None:
        home = Path(os.path.realpath(inside))
        homes = [
            home,
            *(snap.parent / "blobs" for snap in home.parents if snap.name == "snapshots"),
        ]
        if not any(Path(resolved).is_relative_to(folder) for folder in homes):
            raise OSError(f"it is a link that leads out of {inside}, to {resolved}")
    # The path has no links left: one that is put there now is not followed.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        mode = Path(resolved).stat().st_mode  # opening a device can already do something
        refused = [kind for is_kind, kind in KINDS if is_kind(mode)]
        descriptor = -1 if refused else os.open(resolved, flags)
    except OSError as error:
        error.filename = str(path)
        raise
    if refused or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        if descriptor >= 0:
            os.close(descriptor)
        raise OSError(f"it is {refused[0] if refused else 'no regular file'}")
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | Path, max_bytes: int, inside: Path | None = None) -> bytes:
    """Read a small file whole.

    Args:
        path: As in `open_regular`.
        max_bytes: No more than these are read.
        inside: As in `open_regular`.

    Returns:
        Its content.

    Raises:
        OSError: As `open_regular`, or the file is larger.
    """
    with open_regular(path, inside) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"it is larger than {max_bytes:,} bytes")
    return content


def lock_folder(folder: Path) -> IO[str]:
    """Lock a folder for this process, until the file is closed or the process ends.

    Args:
        folder: An existing folder.

    Returns:
        The open file that holds the lock.

    Raises:
        LockedError: Another process holds it; the message says which.
        OSError: The folder cannot be written.
    """
    path = folder / ".lock"
    file = _open(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            raise BlockingIOError("the folder was moved aside meanwhile")
    except BlockingIOError as error:
        owner = _owner(file)
        file.close()
        raise LockedError(
            f"one run trains in one folder, but {folder} is in use by {owner}. Wait for it, or "
            "choose another --run-dir."
        ) from error
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError:
        with contextlib.suppress(OSError):  # closing would write what is left
            file.close()
        raise
    return file


def _owner(file: IO[str]) -> str:
    """Who holds a lock; a process that took it a moment ago has yet to write its name."""
    for _ in range(20):
        file.seek(0)
        if owner := file.read().strip():
            return owner
        time.sleep(0.05)
    return "another process"


def move_aside(folder: Path) -> Path:
    """Rename a folder to the first free one of `<folder>.old-1`, `<folder>.old-2`, and so on.

    Args:
        folder: An existing folder, locked by the caller.

    Returns:
        Its new path.

    Raises:
        ConfigurationError: It is, or holds, the working folder, which would move along.
        OSError: It cannot be renamed.
    """
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            f"the folder to be moved aside must not be the working folder, got {folder}. Change to another one."
        )
    name = folder.absolute()
    number = 1
    while os.path.lexists(aside := name.with_name(f"{name.name}.old-{number}")):
        number += 1
    return name.rename(aside)


def write_file(path: Path, content: str | bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file whole: readers, and a crash at any moment, leave the old content or the new one.

    The content goes to a temporary file beside the target, is brought to the disk, and takes the target's
    name; then the folder is brought to the disk, too.

    Args:
        path: Path of the file; its folder must exist.
        content: New content; text is encoded as UTF-8, an iterable gives the pieces in order.

    Raises:
        OSError: The file cannot be written; the old content stands.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_file(path, "all of it")
        >>> path.read_text()
        'all of it'
    """
    pieces = [content.encode()] if isinstance(content, str) else content
    pieces = [pieces] if isinstance(pieces, bytes) else pieces
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb", opener=_without_links) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can.

    Args:
        folder: Path of the folder.

    Raises:
        OSError: The disk fails.
    """
    if os.name != "posix":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage_errors(
    what: str, advice: str = "Free space, or choose another folder."
) -> Iterator[None]:
    """Raise whatever keeps a block from writing as a `StorageError`.

    Args:
        what: Subject of the message, with its path: `"the index runs/a/index.json"`.
        advice: Last sentence of the message: what the user can do.

    Yields:
        Nothing.

    Raises:
        StorageError: The block met an `OSError`, or an error of a library that stands for one.

    Example:
        >>> with storage_errors("the index a/index.json"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        nacgen.errors.StorageError: the index a/index.json cannot be written ([Errno 28] No space left on ...
    """
    try:
        yield
    except NacgenError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or is_storage_failure(error)):
            raise
        raise StorageError(f"{what} cannot be written ({error}). {advice}") from error


def _without_links(name: str, flags: int) -> int:
    """Open a file, but no link to a file elsewhere."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _open(path: Path, mode: str) -> IO[str]:
    """Open a text file, but no link to a file elsewhere."""
    return open(path, mode, encoding="utf-8", opener=_without_links)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.

    Returns:
        The mapping; empty for an empty file.

    Raises:
        ConfigurationError: No such file, or it holds something else.
        StorageError: The disk fails.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        if error.errno == errno.EIO:
            raise StorageError(f"{path} cannot be read ({error}). Mend the disk.") from error
        raise ConfigurationError(f"--config must name a YAML file, but {path}: {error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{path} must hold a mapping of options, got a {type(values).__name__}. "
            "Start from the config.yaml of a run."
        )
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots between the keys.

    Args:
        values: The nested mapping.
        prefix: Put before every key.

    Returns:
        `{"optim.learning_rate": 0.002, ...}`.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
