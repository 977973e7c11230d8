"""Reading and writing files safely: regular files only, written whole, synced to the disk."""

import contextlib
import errno
import io
import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from nacgen.errors import (
    ConfigurationError,
    NacgenError,
    StorageError,
    is_storage_failure,
    storage_errno,
)

FULL = (errno.ENOSPC, errno.EDQUOT)
# Errors of an operation that a file system lacks, such as locks on Lustre or NFS, or fsync of folders under FUSE.
LACKING = (errno.EINVAL, errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
BLOCK = 4096  # multiple of the blocks of disks, in bytes
# Bytes from which on files are written past the page cache, and that are so at once.
DIRECT = 8 << 20
_warned: set[str] = set()
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)
# No link is followed and no pipe waited for, where the system knows such flags.
_FLAGS = ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
_READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in _FLAGS)


def open_regular(path: str | Path, inside: Path | None = None) -> io.BufferedReader:
    """Open a regular file to read it, without ever waiting for a pipe or a device in its place.

    Links must stay in the folder `inside`, if it is given; `blobs` of the Hub's cache count as inside `snapshots`.
    A missing file, a folder, a pipe, a socket, a device and a link that leads out raise an `OSError`.
    """
    resolved, flags = str(path), _READ & ~getattr(os, "O_NOFOLLOW", 0)
    if inside is not None:
        resolved, flags = os.path.realpath(path), _READ
        home = Path(os.path.realpath(inside))
        blobs = [snap.parent / "blobs" for snap in home.parents if snap.name == "snapshots"]
        if not any(Path(resolved).is_relative_to(folder) for folder in [home, *blobs]):
            raise OSError(f"it is a link that leads out of {inside}, to {resolved}")
    try:
        mode = os.stat(resolved).st_mode  # noqa: PTH116 - merely opening a device can have an effect
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
    """Read a small regular file as a whole; a larger one raises an `OSError`, as `open_regular` does."""
    with open_regular(path, inside) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"it is larger than {max_bytes:,} bytes")
    return content


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, or anything else of that name; a link alone, not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def move_aside(folder: Path) -> Path:
    """Rename a folder, locked by the caller, to the first free name of `<folder>.old-1`, `-2` and so on."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigurationError(
            f"the folder to be moved aside must not be the working folder, got {folder}. Change to another one."
        )
    name = folder.absolute()
    number = 1
    while os.path.lexists(aside := name.with_name(f"{name.name}.old-{number}")):
        number += 1
    return name.rename(aside)


def write_file(
    path: Path, content: str | bytes | Iterable[bytes | memoryview], sync: bool = True
) -> None:
    """Write a file so that a crash at any moment leaves either the old content or the new one.

    A temporary file, named after machine and process, is synced and renamed to the target; those that killed
    writers left behind are removed. Without `sync`, for one of thousands of files that can be made again, the
    file is whole for readers, but not synced, and leftovers stay.
    """
    pieces = [content.encode()] if isinstance(content, str) else content
    pieces = [pieces] if isinstance(pieces, bytes) else pieces
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.new")
    try:
        if sync:
            _remove_leftovers(path)
        write_synced(temporary, pieces, sync)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def is_temporary(name: str, target: str) -> bool:
    """Return True if `write_file` may have given a temporary file this name while it wrote a target."""
    return name.startswith(f".{target}.") and name.endswith(".new")


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of a target whose writers on this machine no longer run."""
    if os.name != "posix":  # signal 0 would end a process on Windows
        return
    pattern = re.compile(re.escape(f".{path.name}.{socket.gethostname()}.") + r"(\d+)\.new")
    for file in path.parent.iterdir():
        if match := pattern.fullmatch(file.name):
            try:
                os.kill(int(match[1]), 0)
            except (ProcessLookupError, OverflowError):
                with contextlib.suppress(OSError):
                    file.unlink()
            except PermissionError:  # another user's process, which runs
                continue


def write_synced(path: Path, pieces: Iterable[bytes | memoryview], is_synced: bool = True) -> None:
    """Write the content of a file to the disk, for a folder that is renamed into place when it is whole.

    A link in the file's place raises an `OSError`.
    """
    with open(path, "wb", opener=_without_links) as file:
        for number, piece in enumerate(pieces):
            done = _write_direct(file.fileno(), piece) if is_synced and number == 0 else 0
            file.write(piece[done:])
        file.flush()
        if is_synced:
            sync(file.fileno())


def _write_direct(descriptor: int, content: bytes | memoryview) -> int:
    """Write the start of a large content at a block's address past the page cache, which a sync would empty again.

    This takes less time and processor; returned is its number of bytes, 0 where the system has no such thing.
    """
    if sys.platform != "linux" or len(content) < DIRECT:
        return 0
    import fcntl

    import numpy as np

    if np.frombuffer(content, np.uint8).ctypes.data % BLOCK:
        return 0
    flags, done, end = fcntl.fcntl(descriptor, fcntl.F_GETFL), 0, len(content) // BLOCK * BLOCK
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < end:
            done += os.write(descriptor, content[done : min(done + DIRECT, end)])
    except OSError as error:
        if error.errno not in (*LACKING, errno.EFAULT):
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return done


def sync_folder(folder: Path) -> None:
    """Sync the names of a folder's files to the disk; Windows does so by itself."""
    if os.name != "posix":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def refuse_overwriting(output: str | Path, *inputs: str | Path | None) -> None:
    """Raise a `ConfigurationError` if a file to be written is one of those that are read, under any name of it."""
    for source in inputs:
        if source is None:
            continue
        try:
            is_same = Path(output).samefile(source)
        except (OSError, ValueError):  # one of them does not exist, or is no path
            continue
        if is_same:
            raise ConfigurationError(
                f"output must be a file of its own, but {output} is {source}, which is read. Choose another "
                "output."
            )


def sync(descriptor: int) -> None:
    """Sync an open file or folder to the disk, where its file system can; else warn once of what is lost."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        warn_once(
            error,
            "a file system cannot sync files or folders",
            "a power cut may lose what was saved last",
        )


def warn_once(error: OSError, fact: str, loss: str) -> None:
    """Warn once that a file system lacks an operation, and what that means; raise any other error again."""
    if error.errno not in LACKING:
        raise error
    if fact not in _warned:
        _warned.add(fact)
        print(f"warning: {fact} ({error}): {loss}", file=sys.stderr)


@contextlib.contextmanager
def storage_errors(what: str, advice: str = "Choose another folder.") -> Iterator[None]:
    """Turn an `OSError` of a block that writes, or a library's error that stands for one, into a `StorageError`.

    The message begins with `what`, which names the path, and ends with `advice`; a full disk adds to it.
    """
    try:
        yield
    except NacgenError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) or is_storage_failure(error)):
            raise
        if storage_errno(error) in FULL:
            advice = f"Free space, or {advice[0].lower()}{advice[1:]}"
        raise StorageError(f"{what} cannot be written ({error}). {advice}") from error


def open_text(path: Path, mode: str) -> IO[str]:
    """Open a text file in UTF-8 to write it, and raise an `OSError` for a link in its place."""
    return open(path, mode, encoding="utf-8", opener=_without_links)


def _without_links(name: str, flags: int) -> int:
    """Open a regular file to write it; neither follow a link nor wait for the reader of a pipe."""
    no_waiting = sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK"))
    descriptor = os.open(name, flags | no_waiting, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{name} is no regular file")
    return descriptor
