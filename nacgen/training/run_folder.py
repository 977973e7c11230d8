"""The folder of a run: what may be opened, and the hold that the process which trains in it has on it."""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

from nacgen.errors import ConfigurationError, StorageError
from nacgen.system.documents import flatten, read_yaml
from nacgen.system.files import is_temporary, move_aside
from nacgen.system.locks import lock_folder
from nacgen.training.config import TrainingConfig, to_dict, upgrade, warn

CONFIG, LOG, CHECKPOINTS, SUMMARY = "config.yaml", "metrics.jsonl", "checkpoints", "summary.json"
NOT_COMPARED = ("config", "run_dir", "run.timeout")
# A run that was stopped while it was being set up leaves no more than these, and a temporary file.
BEGINNINGS = {".lock", "samples"}


def has_begun(folder: Path) -> bool:
    """Tell whether a folder holds a row of a log, a checkpoint or a summary of a run.

    Args:
        folder: Path of a run folder; it need not exist.

    Returns:
        False if a run that starts in the folder loses nothing.
    """
    checkpoints = folder / CHECKPOINTS
    return (
        (folder / SUMMARY).exists()
        or (folder / LOG).exists()
        or (checkpoints.is_dir() and any(checkpoints.iterdir()))
    )


def check_folder(folder: Path, config: TrainingConfig) -> None:
    """Raise unless a run of a configuration can start, or go on, in a folder. Nothing is written.

    Args:
        folder: Path of the run folder; it need not exist.
        config: Configuration of the run, as it was parsed.

    Raises:
        ConfigurationError: The folder holds a run of another configuration, or something else.
        StorageError: The folder is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"run_dir must be a folder, but {folder} is a file. Choose another.")
    if folder.exists() and not (folder / CONFIG).is_file():
        names = {path.name for path in folder.iterdir()} - BEGINNINGS
        if not all(is_temporary(name, CONFIG) for name in names):
            raise ConfigurationError(
                f"run_dir must be new, empty, or hold a run, but {folder} has no {CONFIG}. "
                "Choose another --run-dir."
            )
    elif folder.exists() and not config.fresh:
        _compare(folder, config)
    if config.fresh or not (folder / SUMMARY).is_file():
        _probe(folder)


def _compare(folder: Path, config: TrainingConfig) -> None:
    there = flatten(read_yaml(folder / CONFIG))
    if not has_begun(folder):
        return
    there, here = upgrade(there, str(folder / CONFIG)), flatten(to_dict(config))
    differences = [
        f"{key}: {there[key]} there, {here.get(key, 'absent')} here"
        for key in sorted(there)
        if key not in NOT_COMPARED and (key not in here or there[key] != here[key])
    ]
    if differences:
        named = f"; {config.config} names this one" if config.config else ""
        raise ConfigurationError(
            f"{folder} holds a run of another configuration ({'; '.join(differences)}). Repeat its "
            f"configuration to resume it, choose another --run-dir{named}, or start over with --fresh, which "
            "moves the folder aside."
        )
    lacking = [f"{key} {here[key]}" for key in here if key not in there]
    if lacking:
        warn(
            f"{folder} holds a run of an earlier version, which lacks options of today; it goes on with "
            f"{', '.join(lacking)}"
        )


def _probe(folder: Path) -> None:
    """Write a nameless file where the folder is or will be, so that a full or protected disk is met early."""
    place = folder.absolute()
    while True:
        try:
            place.stat()
            break
        except FileNotFoundError:
            place = place.parent
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))


class FolderHold:
    """The lock on a run folder, which is made if necessary, and the memory of what was there before.

    Args:
        folder: Path of the run folder.
        is_fresh: Move a run that is there aside, unless another process trains in it.

    Raises:
        LockedError: Another process trains in the folder.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, is_fresh: bool) -> None:
        self._folder, self._aside = folder, None
        if is_fresh and (folder / CONFIG).is_file():
            with lock_folder(folder):
                self._aside = move_aside(folder)
            print(f"{folder} was moved to {self._aside}", file=sys.stderr)
        self._is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._names = {path.name for path in folder.iterdir()}
        self._lock = lock_folder(folder)

    def release(self) -> None:
        """Give the lock up; the end of the process does so too."""
        self._lock.close()

    def undo(self) -> None:
        """Remove what came into the folder since, as far as the disk lets it; move an older run back."""
        for path in [path for path in self._folder.iterdir() if path.name not in self._names]:
            with contextlib.suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        with contextlib.suppress(OSError):
            if self._is_new:
                self._folder.rmdir()
            if self._aside is not None:
                self._aside.rename(self._folder)
                print(f"{self._aside} was moved back to {self._folder}", file=sys.stderr)
