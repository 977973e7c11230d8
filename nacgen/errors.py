"""The errors that end a run, each with the exit code that a recipe returns for it.

They also derive from the built-in error of their kind, so library users catch `ValueError`,
`FileNotFoundError`, … without knowing this module. Every message says what was expected, what
came, and what to do.
"""


class NacgenError(Exception):
    """Base of all errors that a recipe reports as one message instead of a traceback."""

    exit_code = 1


class ConfigurationError(NacgenError, ValueError):
    """An option, a preset or a combination of them cannot be used."""

    exit_code = 2


class NonFiniteError(NacgenError, RuntimeError):
    """A loss became NaN or infinite; raised before the update is applied."""

    exit_code = 3


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


class LockedError(NacgenError, RuntimeError):
    """Another process is using the run folder."""

    exit_code = 7
