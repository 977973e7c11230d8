"""The folder of a run: its checks before anything is written, and its lock."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nacgen.errors import ConfigurationError, StorageError
from nacgen.system.documents import flatten, read_yaml
from nacgen.system.files import is_temporary, move_aside
from nacgen.system.locks import lock_folder
from nacgen.training.config import TrainingConfig, preset_of, to_dict
from nacgen.training.old_options import upgrade, warn

CONFIG, LOG, CHECKPOINTS, SUMMARY = "config.yaml", "metrics.jsonl", "checkpoints", "summary.json"
NOT_COMPARED = ("config", "run_dir", "run.timeout")
# A run that was stopped while it was being set up leaves no more than these, and a temporary file.
BEGINNINGS = {".lock", "samples"}


def has_begun(folder: Path) -> bool:
    """Tell whether a folder holds a row of a log, a checkpoint or a summary; it need not exist."""
    checkpoints = folder / CHECKPOINTS
    return (
        (folder / SUMMARY).exists()
        or (folder / LOG).exists()
        or (checkpoints.is_dir() and any(checkpoints.iterdir()))
    )


def check_folder(folder: Path, config: TrainingConfig) -> None:
    """Raise unless a run of a configuration can start or go on in a folder, which need not exist.

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
    # Options of today that an old file lacks have the value that the file gives them when it is parsed.
    defaults = preset_of(config, there.get("preset", "")) or type(config)()
    missing = {key: value for key, value in flatten(to_dict(defaults)).items() if key not in there}
    differences = [
        f"{key}: {value}{' (default)' if key in missing else ''} there, {here.get(key, 'absent')} here"
        for key, value in sorted((there | missing).items())
        if key not in NOT_COMPARED and (key not in here or value != here[key])
    ]
    if differences:
        named = f"; {config.config} names this one" if config.config else ""
        raise ConfigurationError(
            f"{folder} holds a run of another configuration ({'; '.join(differences)}). Repeat its "
            f"configuration to resume it, choose another --run-dir{named}, or start over with --fresh, which "
            "moves the folder aside."
        )
    if missing:
        warn(
            f"{folder} holds a run of an earlier version, which lacks options of today; it goes on with "
            f"{', '.join(f'{key} {value}' for key, value in missing.items())}"
        )


def _probe(folder: Path) -> None:
    """Write a nameless file at the folder's place, so that a full or protected disk is found early."""
    place = folder.absolute()
    while True:
        try:
            place.stat()
            break
        except FileNotFoundError:
            place = place.parent
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))


@contextlib.contextmanager
def hold_folder(folder: Path, is_fresh: bool) -> Iterator[None]:
    """Make and lock a run folder. An error that ends a run before it has begun leaves what was there before.

    `is_fresh` moves an older run aside. Raises `LockedError` if another process trains in the folder.
    """
    aside: Path | None = None
    if is_fresh and (folder / CONFIG).is_file():
        with lock_folder(folder):
            aside = move_aside(folder)
        print(f"{folder} was moved to {aside}", file=sys.stderr)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in folder.iterdir()}
    with lock_folder(folder):
        try:
            yield
        except BaseException:
            if not has_begun(folder):
                for path in [path for path in folder.iterdir() if path.name not in names]:
                    _remove(path)
                with contextlib.suppress(OSError):
                    if is_new:
                        folder.rmdir()
                    if aside is not None:
                        aside.rename(folder)
                        print(f"{aside} was moved back to {folder}", file=sys.stderr)
            raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
