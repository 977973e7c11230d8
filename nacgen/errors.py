"""The errors that end a run, each with the exit code that a recipe returns for it.

They also derive from the built-in error of their kind, so library users catch `ValueError`,
`FileNotFoundError`, … without knowing this module. Every message says what was expected, what
came, and what to do.
"""

import errno
import re

EXIT_PREEMPTED = 143  # stopped by a signal, and saved
EXIT_INTERRUPTED = 130  # Ctrl-C where there was nothing to save, or a second time

# What a full, protected or failing disk answers.
_STORAGE_REASONS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
}


class NacgenError(Exception):
    """Base of all errors that a recipe reports as one message instead of a traceback."""

    exit_code = 1


class ConfigurationError(NacgenError, ValueError):
    """An option, a preset or a combination of them cannot be used."""

    exit_code = 2


class NonFiniteError(NacgenError, RuntimeError):
    """A loss became NaN or infinite; raised before the update is applied."""

    exit_code = 3


class DivergenceError(NacgenError, RuntimeError):
    """Training has left the range in which it can recover, though its numbers are finite.

    Args:
        message: What happened.
        since: Images seen when it began; checkpoints from after it are worth nothing. All are, unless it is said.
    """

    exit_code = 3

    def __init__(self, message: str, since: int = 0) -> None:
        super().__init__(message)
        self.since = since


class DataError(NacgenError, ValueError):
    """A dataset exists but cannot be used."""

    exit_code = 4


class DataNotFoundError(DataError, FileNotFoundError):
    """A dataset is not where it was looked for."""


class CheckpointError(NacgenError, RuntimeError):
    """A model folder or a checkpoint does not fit or is damaged."""

    exit_code = 5


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """A model folder or a checkpoint is not where it was looked for."""


class StorageError(NacgenError, OSError):
    """The run folder cannot be written."""

    exit_code = 6


def is_storage_failure(error: BaseException) -> bool:
    """Whether an error, whichever library raised it, says that a file could not be written.

    Args:
        error: Any exception; libraries in Rust, such as safetensors, put the system's number into the text.

    Returns:
        True for a full or protected disk and the like.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(match[1])
    return number in _STORAGE_REASONS


class LockedError(NacgenError, RuntimeError):
    """Another process is using the run folder."""

    exit_code = 7


class LostProcessError(NacgenError, ConnectionError):
    """Another process of the run no longer answers."""

    exit_code = 8


class StopRequestedError(NacgenError):
    """A process was asked to stop by a signal; the run is saved before it does."""

    exit_code = EXIT_PREEMPTED
