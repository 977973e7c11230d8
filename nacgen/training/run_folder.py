"""The folder of one run: its configuration, log, samples, checkpoints and summary."""

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from nacgen.errors import (
    CheckpointError,
    ConfigurationError,
    NacgenError,
    StorageError,
    is_storage_failure,
)
from nacgen.models.folder import PretrainedModel
from nacgen.system.documents import flatten, read_yaml
from nacgen.system.files import move_aside, open_text, write_file
from nacgen.system.locks import lock_folder
from nacgen.system.processes import Processes, ProcessInfo
from nacgen.training.config import TrainingConfig, to_dict
from nacgen.training.environment import describe_environment, describe_hardware

NOT_COMPARED = ("config", "run_dir", "run.timeout")


class RunFolder:
    """One run on disk. Nothing is written before `create`.

    Args:
        name: Of recipe and preset; the default folder is runs/<name>-seed<seed>.
        config: The run's configuration.
        is_main: Whether this process writes.

    Raises:
        ConfigurationError: The folder holds a run of another configuration, or something else.
        StorageError: The folder cannot be written.
    """

    def __init__(self, name: str, config: TrainingConfig, is_main: bool = True) -> None:
        self.path = Path(config.run_dir or f"runs/{name}-seed{config.seed}")
        self.config = dataclasses.replace(config, run_dir=str(self.path), config=None, fresh=False)
        self._config_file, self._is_fresh = config.config, config.fresh
        self.is_main = is_main
        self.checkpoints, self._log = self.path / "checkpoints", self.path / "metrics.jsonl"
        self._lock: IO[str] | None = None
        self._num_rows = 0
        self._kept: dict[str, str] = {}
        with self.writing("run"):
            self._check_existing()
            if not self.is_complete:
                _probe(self.path)

    @property
    def is_complete(self) -> bool:
        """Whether the run has ended and left its summary, and is not to start over."""
        return not self._is_fresh and (self.path / "summary.json").is_file()

    @property
    def hardware(self) -> str:
        """What the run computes on, in words, once it is created."""
        environment = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        return describe_hardware(environment)

    def _check_existing(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise StorageError(
                f"run_dir must be a folder, but {self.path} is a file. Choose another."
            )
        if not self.path.exists():
            return
        if not (self.path / "config.yaml").is_file():
            if {p.name for p in self.path.iterdir()} <= {".lock", ".config.yaml.new", "samples"}:
                return  # empty, or a run that was stopped while it was being set up
            raise ConfigurationError(
                f"run_dir must be new, empty, or hold a run, but {self.path} has no config.yaml. "
                "Choose another --run-dir."
            )
        if self._is_fresh:
            return
        there = flatten(read_yaml(self.path / "config.yaml"))
        here = flatten(to_dict(self.config))
        differences = [
            f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here"
            for key in sorted(there.keys() | here.keys())
            if key not in NOT_COMPARED and there.get(key, "absent") != here.get(key, "absent")
        ]
        if differences:
            named = f"; {self._config_file} names this one" if self._config_file else ""
            raise ConfigurationError(
                f"{self.path} holds a run of another configuration ({'; '.join(differences)}). Repeat its "
                f"configuration to resume it, choose another --run-dir{named}, or start over with --fresh, which "
                "moves the folder aside."
            )

    def keep(self, name: str, text: str) -> str | None:
        """Have `create` write a text that every session of the run must agree on.

        Args:
            name: Of its file.
            text: Of this session.

        Returns:
            The text of an earlier session, None where there was none.
        """
        path = self.path / name
        self._kept[name] = text
        return path.read_text("utf-8") if path.is_file() and not self._is_fresh else None

    def create(self, environment: dict[str, Any]) -> None:
        """Make the folder, lock it for this process and write what the run is.

        A run that is to start over moves the folder that is there aside before, unless another trains in it.

        Args:
            environment: Added to environment.json.

        Raises:
            StorageError: The folder cannot be written.
            LockedError: Another process trains in it.
        """
        if not self.is_main:
            return
        try:
            with self.writing("configuration"):
                if self._is_fresh and (self.path / "config.yaml").is_file():
                    with lock_folder(self.path):
                        aside = move_aside(self.path)
                    print(f"{self.path} was moved to {aside}", file=sys.stderr)
                self._is_fresh = False
                (self.path / "samples").mkdir(parents=True, exist_ok=True)
                self._lock = lock_folder(self.path)
                config = yaml.safe_dump(to_dict(self.config), sort_keys=False)
                write_file(self.path / "config.yaml", config)
                for name, text in self._kept.items():
                    write_file(self.path / name, text)
                facts = describe_environment() | environment
                write_file(self.path / "environment.json", json.dumps(facts, indent=2) + "\n")
        except StorageError:
            self.release()
            raise

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Report whatever keeps a block from writing into the run folder as a StorageError.

        Args:
            what: What is written, for the message.

        Yields:
            Nothing.

        Raises:
            StorageError: The folder cannot be written.
        """
        try:
            yield
        except NacgenError:
            raise
        except Exception as error:
            if not (isinstance(error, OSError) or is_storage_failure(error)):
                raise
            raise StorageError(
                f"the {what} in {self.path} cannot be written ({error}). Free space, or choose another "
                "--run-dir; earlier checkpoints are intact, and the same command resumes from them."
            ) from error

    def release(self) -> None:
        """Give up the lock; the end of the process does so too."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl.

        Args:
            row: JSON values, with `images_seen`.
        """
        if self.is_main:
            with self.writing("log"), open_text(self._log, "a") as file:
                file.write(json.dumps(row) + "\n")
            self._num_rows += 1

    def settle_log(self) -> int:
        """Bring the log to the disk.

        Returns:
            Its number of rows.
        """
        with self.writing("log"), contextlib.suppress(FileNotFoundError), self._log.open() as file:
            os.fsync(file.fileno())
        return self._num_rows

    def cut_log(self, images_seen: int, num_rows: int | None = None) -> None:
        """Drop the rows behind a position, so that a resumed log equals an uninterrupted one.

        Args:
            images_seen: Rows up to and including it stay.
            num_rows: At most so many: a position may have been evaluated after it was saved.
        """
        if not self.is_main or not self._log.exists():
            return
        kept = []
        with self.writing("log"):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off by a kill
                    if json.loads(line)["images_seen"] <= images_seen:
                        kept.append(line + "\n")
            kept = kept[:num_rows]
            write_file(self._log, "".join(kept))
        self._num_rows = len(kept)

    def export(self, model: PretrainedModel, name: str, accelerator: ProcessInfo) -> None:
        """Write a model as a folder of its own, for readers while the run goes on; every process calls it.

        Args:
            model: As it is now.
            name: Of the folder.
            accelerator: The run's.

        Raises:
            StorageError: It cannot be written, on every process.
        """
        with Processes.of(accelerator).failing_together(), self.writing(name):
            if self.is_main:
                model.save_pretrained(self.path / name)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, which marks the run complete.

        Args:
            summary: JSON values.
        """
        if self.is_main:
            with self.writing("summary"):
                write_file(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """The summary of a complete run.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = self.path / "summary.json"
        try:
            summary: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{path} should hold a JSON object, but does not ({error}). Remove it and repeat the "
                "command, which writes it again from the last checkpoint."
            ) from error
        return summary


def _probe(folder: Path) -> None:
    """Write a nameless file where a folder is or will be: OSError now rather than when the run is set up."""
    place = folder.absolute()
    while True:
        try:
            place.stat()
            break
        except FileNotFoundError:
            place = place.parent
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(bytes(4096))
