"""Errors that end a run, each with the exit code that a recipe returns for it.

They also derive from the built-in error of their kind, so that library users can catch `ValueError`,
`FileNotFoundError`, … without knowing this module. Every message says what was expected, what came, and what
to do.
"""

import errno
import re
from collections.abc import Iterable

EXIT_PREEMPTED = 143  # stopped by a signal, and saved
EXIT_INTERRUPTED = 130  # Ctrl-C where there was nothing to save, or a second time

# Error numbers of a full, protected or failing disk.
_STORAGE_REASONS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
}


class NacgenError(Exception):
    """The base of all errors that a recipe reports as one message instead of a traceback."""

    exit_code = 1


class ConfigurationError(NacgenError, ValueError):
    """An option, a preset, or a combination of options that cannot be used."""

    exit_code = 2


class ArgumentError(ConfigurationError, TypeError):
    """An argument that a public function does not take, or that it needs and did not get."""


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a `ConfigurationError` unless the value of an option is among its choices."""
    if value not in (known := list(choices)):
        raise ConfigurationError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


class NonFiniteError(NacgenError, RuntimeError):
    """A loss that is NaN or infinite; raised before the update is applied."""

    exit_code = 3


class DivergenceError(NacgenError, RuntimeError):
    """A divergence of training that cannot be recovered, although the numbers are still finite.

    `since` is the number of images seen when it began; later checkpoints are worthless. By default all are.
    """

    exit_code = 3

    def __init__(self, message: str, since: int = 0) -> None:
        super().__init__(message)
        self.since = since


class DataError(NacgenError, ValueError):
    """A dataset that exists but cannot be used."""

    exit_code = 4


class DataNotFoundError(DataError, FileNotFoundError):
    """A dataset that is missing at the expected place."""


class CheckpointError(NacgenError, RuntimeError):
    """A model folder or a checkpoint that does not fit or is damaged."""

    exit_code = 5


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A model folder or a checkpoint that is missing at the expected place."""


class StorageError(NacgenError, OSError):
    """A file or a folder that cannot be written."""

    exit_code = 6


def is_storage_failure(error: BaseException) -> bool:
    """Return True for errors that mean a full, protected or failing disk.

    Libraries in Rust, such as safetensors, put the system's error number into the text.

    Example:
        >>> is_storage_failure(OSError(28, "No space left on device"))
        True
    """
    return storage_errno(error) in _STORAGE_REASONS


def storage_errno(error: BaseException) -> int | None:
    """Return the system's number of an error, None if it has none."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(match[1])
    return number


class LockedError(NacgenError, RuntimeError):
    """A run folder that another process is using."""

    exit_code = 7


class LostProcessError(NacgenError, ConnectionError):
    """Another process of the run that no longer answers."""

    exit_code = 8


class StopRequestedError(NacgenError):
    """A request to stop by a signal; the run is saved before it ends."""

    exit_code = EXIT_PREEMPTED
