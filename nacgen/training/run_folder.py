"""The folder of a run: its checks before anything is written, and its lock."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nacgen.data.options import GIVEN
from nacgen.errors import CheckpointError, ConfigurationError, StorageError
from nacgen.system.documents import flatten, read_yaml, strict_json
from nacgen.system.files import is_temporary, move_aside, read_regular, remove
from nacgen.system.locks import lock_folder
from nacgen.system.terminal import warn
from nacgen.training.config import TrainingConfig, preset_of, to_dict
from nacgen.training.fingerprints import LARGEST, file_digest, read_fingerprints
from nacgen.training.old_options import upgrade

CONFIG, LOG, CHECKPOINTS, SUMMARY = "config.yaml", "metrics.jsonl", "checkpoints", "summary.json"
ENVIRONMENT, SAMPLES = "environment.json", "samples"
NOT_COMPARED = ("config", "run_dir", "run.num_threads", "run.timeout", "data.cache")
# Paths of inputs, of which the fingerprints are compared.
INPUT_PATHS = ("data_dir", "encoder", "perceptual_encoder", "score.weights")
# A run that was stopped while it was being set up leaves no more than these, and a temporary file.
BEGINNINGS = {".lock", SAMPLES}


def has_begun(folder: Path) -> bool:
    """Tell whether a folder holds a row of a log, a checkpoint or a summary; it need not exist."""
    return (folder / SUMMARY).exists() or (folder / LOG).exists() or _has_checkpoints(folder)


def is_unfinished(folder: Path) -> bool:
    """Tell whether a folder holds a run that has begun and not ended."""
    return has_begun(folder) and not (folder / SUMMARY).exists()


def _has_checkpoints(folder: Path) -> bool:
    return (folder / CHECKPOINTS).is_dir() and any((folder / CHECKPOINTS).iterdir())


def check_folder(folder: Path, config: TrainingConfig) -> None:
    """Raise unless a run of a configuration can start or go on in a folder, which need not exist."""
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


def is_finished(folder: Path, config: TrainingConfig, is_main: bool) -> bool:
    """Tell whether a folder holds this run, complete and whole.

    A complete run whose files are damaged, or whose inputs are given by other paths, is opened as one that was
    stopped before its summary: its inputs are compared, and its models and reports are made again from the last
    checkpoint.
    """
    if config.fresh or not os.path.lexists(folder / SUMMARY):
        return False
    problems = [
        f"{name} is damaged"
        for name, digest in read_fingerprints(folder).get("outputs", {}).items()
        if file_digest(folder / name) != digest
    ]
    try:
        summary = strict_json(read_regular(folder / SUMMARY, LARGEST), allow_nan=True)
        if not isinstance(summary, dict):
            raise ValueError("it is no summary")
    except (OSError, ValueError) as error:
        problems.append(f"{SUMMARY} is damaged ({error})")
    there, here = flatten(read_yaml(folder / CONFIG)), flatten(to_dict(config))
    moved = [
        f"{name} was {there.get(name)}, is {here[name]}"
        for name in INPUT_PATHS
        if name in here and not _is_same(there.get(name), here[name])
    ]
    if not problems + moved:
        return True
    told = f"{folder} holds this run, complete, but {'; '.join(problems + moved)}"
    if not _has_checkpoints(folder):
        if not moved and all(problem.startswith(f"{SAMPLES}/") for problem in problems):
            return True  # pictures stop no run
        raise CheckpointError(
            f"{told}, and no checkpoint to make it whole from. Bring the files and the paths back, or choose "
            "another --run-dir."
        )
    if is_main:
        then = "if it holds the same, " if moved else ""
        print(f"{told}; {then}its end is repeated from the last checkpoint", file=sys.stderr)
    return False


def _is_same(there: object, here: object) -> bool:
    if None in (there, here):
        return there == here
    return os.path.realpath(str(there)) == os.path.realpath(str(here))


def _compare(folder: Path, config: TrainingConfig) -> None:
    there = flatten(read_yaml(folder / CONFIG))
    if not has_begun(folder):
        return
    there, here = upgrade(there, str(folder / CONFIG)), flatten(to_dict(config))
    not_compared = NOT_COMPARED + (INPUT_PATHS if read_fingerprints(folder).get("inputs") else ())
    # Options of today that an old file lacks have the value that the file gives them when it is parsed.
    defaults = preset_of(config, there.get("preset", "")) or type(config)()
    missing = {
        k: v for k, v in flatten(to_dict(defaults)).items() if k not in {*there, *NOT_COMPARED}
    }
    differences = [
        f"{key}: {value}{' (default)' if key in missing else ''} there, {here.get(key, 'absent')} here"
        for key, value in sorted((there | missing).items())
        if key not in not_compared and (key not in here or value != here[key])
    ]
    if differences:
        named = f"; {config.config} names this one" if config.config else ""
        raise ConfigurationError(
            f"{folder} holds a run of another configuration ({'; '.join(differences)}). Repeat its "
            f"configuration to resume it, choose another --run-dir{named}, or start over with --fresh, which "
            "moves the folder aside."
        )
    if here["dataset"] == GIVEN and there.get("data_dir") != here["data_dir"]:  # digests of images
        raise ConfigurationError(
            f"{folder} holds a run of images in hand, but of other images than these. Give the same images to go "
            "on with it, choose another --run-dir, or start over with --fresh, which moves the folder aside."
        )
    if missing:
        warn(
            f"{folder} holds a run of an earlier version, which lacks options of today; it goes on with "
            f"{', '.join(f'{key} {value}' for key, value in missing.items())}"
        )


def _probe(folder: Path) -> None:
    """Write a nameless file at the folder's place, so that a full or protected disk is found early."""
    here = folder.absolute()
    place = next(path for path in (here, *here.parents) if path.exists())
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))


@contextlib.contextmanager
def hold_folder(folder: Path, is_fresh: bool) -> Iterator[IO[str]]:
    """Make and lock a run folder and yield its lock.

    `is_fresh` moves an older run aside. An error that ends a run before it has begun leaves what was there before.
    """
    aside: Path | None = None
    if is_fresh and (folder / CONFIG).is_file():
        with lock_folder(folder):
            aside = move_aside(folder)
        print(f"{folder} was moved to {aside}", file=sys.stderr)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in folder.iterdir()}
    with lock_folder(folder) as lock:
        try:
            yield lock
        except BaseException:
            if folder.is_dir() and not has_begun(folder):
                for path in [path for path in folder.iterdir() if path.name not in names]:
                    with contextlib.suppress(OSError):
                        remove(path)
                with contextlib.suppress(OSError):
                    if is_new:
                        folder.rmdir()
                    if aside is not None:
                        aside.rename(folder)
                        print(f"{aside} was moved back to {folder}", file=sys.stderr)
            raise
