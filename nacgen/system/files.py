"""Opening what is a file and nothing else: a pipe would block, a device could be endless."""

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import socket
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from nacgen.errors import (
    ConfigurationError,
    DataError,
    LockedError,
    StorageError,
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


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one.

    Args:
        path: The file.
        text: Its new content.

    Raises:
        OSError: It cannot be written; the old text stands.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with _open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _open(path: Path, mode: str) -> IO[str]:
    """Open a text file, but no link to a file elsewhere."""

    def without_links(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, 0o666)

    return open(path, mode, encoding="utf-8", opener=without_links)


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


def require_md5(path: Path, expected: str) -> None:
    """Refuse a file that is not the published one.

    MD5 finds what a download or a disk damaged; against forgery it is no protection.

    Args:
        path: The file.
        expected: MD5 in hexadecimal digits.

    Raises:
        DataError: The file has another checksum.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} must be the published file with MD5 {expected}, got {found}. It is damaged or changed: "
            "download the archive again and unpack it over this one."
        )
