"""A training run: its folder, its accelerator and its processes in one object, made once."""

import contextlib
import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from nacgen.data.datasets import Dataset
from nacgen.data.stream import ImageStream
from nacgen.errors import CheckpointError, ConfigurationError
from nacgen.models.folder import PretrainedModel
from nacgen.system.documents import flatten
from nacgen.system.files import open_text, storage_errors, write_file
from nacgen.system.processes import Processes
from nacgen.training.config import TrainingConfig, to_dict
from nacgen.training.environment import describe_environment, describe_hardware
from nacgen.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    LOG,
    SUMMARY,
    check_folder,
    has_begun,
    hold_folder,
)
from nacgen.training.trackers import require_tracker


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run over all its sessions; its speed leaves evaluation and saving out."""

    images_seen: int
    seconds: float
    images_per_second: float
    evaluation: dict[str, Any]


class Run:
    """One run on disk and on its devices. `open_run` makes it.

    Attributes:
        config: Configuration of the run, as `config.yaml` holds it.
        accelerator: Accelerator with the processes and the precision that the launcher chose.
        processes: Processes of the run, which split images and agree on errors.
        is_main: True on the one process that writes.
        is_complete: True if the run had ended before it was opened; it is not trained again.
        has_begun: True if an earlier session left rows of the log or checkpoints.
        environment: Machine, devices and versions, as `environment.json` holds them.
    """

    def __init__(
        self, path: Path, config: TrainingConfig, accelerator: Accelerator, recipe: str
    ) -> None:
        self.path, self.accelerator = path, accelerator
        self.config = dataclasses.replace(config, run_dir=str(path), config=None, fresh=False)
        self.processes = Processes.of(accelerator)
        self.device, self.is_main = accelerator.device, accelerator.is_main_process
        self.is_complete = not config.fresh and (path / SUMMARY).is_file()
        self.has_begun = not config.fresh and has_begun(path)
        self.environment = describe_environment(recipe, accelerator)
        self.checkpoints = path / CHECKPOINTS
        self._log, self._num_rows = path / LOG, 0

    @property
    def hardware(self) -> str:
        """Devices of the run in words, for example `"2 CPU cores"`."""
        return describe_hardware(self.environment)

    def stream(self, dataset: Dataset) -> ImageStream:
        """Return this process's batches of a dataset, of the batch size and the seed of the configuration."""
        return ImageStream(
            dataset,
            self.config.batch_size,
            self.config.seed,
            self.device,
            self.processes.process_index,
            self.processes.num_processes,
        )

    def writing(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Return a context that turns failures to write into a `StorageError` that names `what`."""
        return storage_errors(
            f"the {what} in {self.path}",
            "Free space, or choose another --run-dir; earlier checkpoints are intact, and the same command "
            "resumes from them.",
        )

    @contextlib.contextmanager
    def _held(self, is_fresh: bool) -> Iterator[None]:
        """Make, lock and describe the folder."""
        with contextlib.ExitStack() as stack:
            with self.processes.failing_together(), self.writing("configuration"):
                if self.is_main:
                    stack.enter_context(hold_folder(self.path, is_fresh))
                    (self.path / "samples").mkdir(exist_ok=True)
                    config = yaml.safe_dump(to_dict(self.config), sort_keys=False)
                    write_file(self.path / CONFIG, config)
                    facts = json.dumps(self.environment, indent=2)
                    write_file(self.path / "environment.json", facts + "\n")
            yield

    def write(self, name: str, text: str) -> None:
        """Write a text file into the folder, whole or not at all. Only the main process calls it."""
        with self.writing(name.removesuffix(".json")):
            write_file(self.path / name, text)

    def export(self, model: PretrainedModel, name: str) -> None:
        """Write a model as a folder of that name in the run folder; every process calls it."""
        with self.processes.failing_together(), self.writing(name):
            if self.is_main:
                model.save_pretrained(self.path / name)

    def start_trackers(self) -> None:
        """Start the trackers that the configuration names; every process calls it."""
        options = flatten(to_dict(self.config))
        with self.processes.failing_together(), self.writing("tracker's files"):
            self.accelerator.init_trackers("nacgen", {k: str(v) for k, v in options.items()})

    def end_trackers(self) -> None:
        """Close the trackers and the group of processes; every process calls it."""
        with self.writing("tracker's files"):
            self.accelerator.end_training()

    def log(
        self,
        images_seen: int,
        values: Mapping[str, Any],
        tracked: Mapping[str, float] | None = None,
    ) -> None:
        """Append one row to `metrics.jsonl`; every process calls it.

        Trackers get the values of the row and those in `tracked`; without `tracked` they get nothing.
        """
        with self.processes.failing_together():
            if self.is_main:
                row = json.dumps({"images_seen": images_seen, **values})
                with self.writing("log"), open_text(self._log, "a") as file:
                    file.write(row + "\n")
                self._num_rows += 1
            if tracked is not None:
                with self.writing("tracker's files"):
                    self.accelerator.log({**values, **tracked}, images_seen)

    def sync_log(self) -> int:
        """Sync the log to the disk, and return the number of its rows. Only the main process calls it."""
        with self.writing("log"), contextlib.suppress(FileNotFoundError), self._log.open() as file:
            os.fsync(file.fileno())
        return self._num_rows

    def cut_log(self, images_seen: int, num_rows: int | None = None) -> None:
        """Drop the rows after a position, so that a resumed log equals an uninterrupted one.

        At most `num_rows` stay: a position may have been evaluated after it was saved. Every process calls it.
        """
        with self.processes.failing_together(), self.writing("log"):
            if not self.is_main or not self._log.exists():
                return
            kept = []
            for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off by a kill
                    if json.loads(line)["images_seen"] <= images_seen:
                        kept.append(line + "\n")
            kept = kept[:num_rows]
            write_file(self._log, "".join(kept))
            self._num_rows = len(kept)

    def finish(
        self,
        result: TrainingResult | None = None,
        report: Callable[[Path], str] | None = None,
        **extra: Any,
    ) -> None:
        """Mark the run complete and print its summary as the last line of stdout; every process calls it.

        Without a result, of a run that was complete before, the summary is repeated. `report` writes reports
        into the run folder and returns a text for stderr; `extra` values join the summary.
        """
        if result is not None:
            self.end_trackers()
        if not self.is_main:
            return
        if result is None:
            print(f"{self.path} holds this run, complete; nothing to do", file=sys.stderr)
        else:
            summary = {"run_dir": str(self.path), **dataclasses.asdict(result), **extra}
            summary |= summary.pop("evaluation")
            self.write(SUMMARY, json.dumps(summary, indent=2) + "\n")
        if report is not None:
            print(f"\n{report(self.path)}\n", file=sys.stderr)
        path = self.path / SUMMARY
        try:
            summary = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise CheckpointError(
                f"{path} should hold a JSON object, but does not ({error}). Remove it and repeat the "
                "command, which writes it again from the last checkpoint."
            ) from error
        print(json.dumps(summary), flush=True)


@contextlib.contextmanager
def open_run(name: str, config: TrainingConfig, allow_fp16: bool = True) -> Iterator[Run]:
    """Open a run: check its folder, set Accelerate up, lock the folder and write what the run is.

    A complete run is opened, too, but neither locked nor changed. A run that an error ends before its first row
    of the log and its first checkpoint leaves nothing behind.

    Args:
        name: Name of recipe and preset with a hyphen between; the default folder is `runs/<name>-seed<seed>`.
        config: Configuration of the run.
        allow_fp16: False for adversarial training.

    Raises:
        ConfigurationError: The tracker is not installed or logged in, the folder holds another run, or
            the launcher chose fp16 where it is not allowed.
        LockedError: Another process trains in the folder.
        StorageError: The folder cannot be written.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> with open_run("example", TrainingConfig(run_dir=folder)) as run:
        ...     (run.path / "config.yaml").is_file()
        True
    """
    path = Path(config.run_dir or f"runs/{name}-seed{config.seed}")
    with storage_errors(f"the run in {path}", "Free space, or choose another --run-dir."):
        check_folder(path, config)
    require_tracker(config.run.tracker)
    accelerator = _build_accelerator(path, config)
    if accelerator.mixed_precision == "fp16" and not allow_fp16:
        raise ConfigurationError(
            "mixed precision must be no or bf16 for adversarial training, got fp16: Accelerate's optimizers "
            "share one gradient scaler, and gradient penalties overflow in it. Launch with "
            "--mixed_precision bf16."
        )
    run = Run(path, config, accelerator, recipe=name.partition("-")[0])
    if run.is_complete:
        yield run
        return
    with run._held(config.fresh):
        yield run


def _build_accelerator(path: Path, config: TrainingConfig) -> Accelerator:
    # Two warnings of DistributedDataParallel that point to no fault. torch 2.15 renames broadcast_buffers, but
    # torch 2.10 and Accelerate do not know the new name. The gradient of a head with one output is a transposed
    # column.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return Accelerator(
        # Explicit: under torchrun on a machine without a device each process would work alone.
        cpu=not torch.accelerator.is_available(),
        log_with=None if config.run.tracker == "none" else config.run.tracker,
        project_config=ProjectConfiguration(str(path), logging_dir=str(path / "tensorboard")),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(seconds=config.run.timeout)),
        ],
    )
