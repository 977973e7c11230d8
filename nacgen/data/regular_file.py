"""Opening what is a file and nothing else: a pipe would block, a device could be endless."""

import io
import os
import stat
from pathlib import Path

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
