"""A training run: its folder, its accelerator and its processes in one object, made once."""

import contextlib
import dataclasses
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from accelerate import Accelerator
from tqdm import tqdm

from nacgen.data.datasets import Dataset
from nacgen.data.stream import ImageStream
from nacgen.errors import ConfigurationError, LockedError
from nacgen.models.folder import CONFIG_FILE, WEIGHTS_FILE, PretrainedModel
from nacgen.system.documents import flatten
from nacgen.system.files import open_regular, open_text, storage_errors, sync, write_file
from nacgen.system.locks import is_in_place, lock_folder
from nacgen.system.processes import Processes
from nacgen.system.terminal import print_result, spelling
from nacgen.training.config import TrainingConfig, to_dict
from nacgen.training.environment import (
    choose_threads,
    describe_environment,
    describe_hardware,
    read_environment,
)
from nacgen.training.fingerprints import (
    FINGERPRINTS,
    differences,
    digest,
    file_digest,
    read_fingerprints,
)
from nacgen.training.launcher import build_accelerator
from nacgen.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    INPUT_PATHS,
    LOG,
    NOT_COMPARED,
    SAMPLES,
    SUMMARY,
    check_folder,
    has_begun,
    hold_folder,
    is_finished,
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
        self.processes = Processes.of(accelerator)
        self.device, self.is_main = accelerator.device, accelerator.is_main_process
        self.is_complete = is_finished(path, config, self.is_main)
        self.has_begun = not config.fresh and has_begun(path)
        options = flatten(to_dict(config))
        compared = options.keys() - {*NOT_COMPARED, *INPUT_PATHS}
        now = {"configuration": digest({name: options[name] for name in compared}), "inputs": {}}
        self._fingerprints: dict[str, Any] = now
        if self.has_begun:  # a later version may have more options
            self._fingerprints |= read_fingerprints(path)
        self._before = read_environment(path)
        before = (self._before or {}) if self.has_begun else None
        threads, self._told = choose_threads(
            config.run.num_threads, path, before, self.processes.num_processes
        )
        torch.set_num_threads(threads)
        options_of_run = dataclasses.replace(config.run, num_threads=threads)
        self.config = dataclasses.replace(
            config, run_dir=str(path), run=options_of_run, config=None, fresh=False
        )
        self.environment = describe_environment(recipe, accelerator)
        self.checkpoints = path / CHECKPOINTS
        self._log, self._exported = path / LOG, set[str]()
        self._lock: IO[str] | None = None
        self._checking = threading.Lock()

    @property
    def hardware(self) -> str:
        """Devices of the run in words, for example `"2 CPU threads"`."""
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

    def say(self, text: str) -> None:
        """Print a line for people to stderr, above the bar of progress if there is one; the main process does."""
        if self.is_main:
            tqdm.write(spelling.get()(text), file=sys.stderr)

    def writing(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Return a context that turns failures to write into a `StorageError` that names `what`."""
        return storage_errors(
            f"the {what} in {self.path}",
            "Choose another --run-dir; earlier checkpoints are intact, and the same command resumes from "
            "them.",
        )

    @contextlib.contextmanager
    def _held(self, is_fresh: bool) -> Iterator[None]:
        """Make, lock and describe the folder."""
        with contextlib.ExitStack() as stack:
            with self.processes.failing_together(), self.writing("configuration"):
                if self.is_main:
                    self._lock = stack.enter_context(hold_folder(self.path, is_fresh))
                    self._compare_environment()
                    (self.path / SAMPLES).mkdir(exist_ok=True)
                    if not self._fingerprints["inputs"]:  # else they are compared first
                        self._describe()
            self.say(f"training on {', '.join(dict.fromkeys([self.hardware, *self._told]))}")
            try:
                yield
            finally:  # of a lock that was taken again
                if self._lock is not None:
                    self._lock.close()

    def _describe(self) -> None:
        write_file(self.path / CONFIG, yaml.safe_dump(to_dict(self.config), sort_keys=False))
        write_file(self.path / ENVIRONMENT, json.dumps(self.environment, indent=2) + "\n")

    def _compare_environment(self) -> None:
        """Refuse to resume in another precision, and warn where sums may be rounded otherwise."""
        there, here = self._before, self.environment
        if not self.has_begun:
            return
        if there is None:
            told = "is damaged: nobody can tell whether the precision is the same"
            self.say(f"warning: {self.path / ENVIRONMENT} {told}")
            return
        precision = there.get("mixed_precision", here["mixed_precision"])
        if precision != here["mixed_precision"]:
            raise ConfigurationError(
                f"{self.path} holds a run in mixed precision {precision}, but the launcher chose "
                f"{here['mixed_precision']}. Launch with --mixed_precision {precision}, or choose another "
                "--run-dir."
            )
        names = ("device", "gpu", "threads", "num_processes")
        changed = differences(*({name: each.get(name) for name in names} for each in (there, here)))
        if changed:
            self.say(
                f"warning: {self.path} is resumed on other hardware or threads ({'; '.join(changed)}): sums are "
                "rounded otherwise, and the run will not equal an uninterrupted one bit for bit"
            )

    def check_lock(self) -> None:
        """End if another run has worked in the folder since the lock was deleted; else lock it again.

        A thread that writes a checkpoint calls it, too.
        """
        with self._checking:
            if self._lock is None or is_in_place(self._lock):
                return
            if Path(self._lock.name).exists():
                raise LockedError(
                    f"one run trains in one folder, but the lock of {self.path} was deleted, and another run has "
                    "begun in it. Wait for it; the same command then goes on from the last checkpoint."
                )
            with self.writing("lock"):
                self._lock.close()
                self._lock = lock_folder(self.path)

    def write(self, name: str, text: str) -> None:
        """Write a text file into the folder, whole or not at all. Only the main process calls it."""
        with self.writing(name.removesuffix(".json")):
            write_file(self.path / name, text)

    def export(self, model: PretrainedModel, name: str) -> None:
        """Write a model as a folder of that name in the run folder; every process calls it."""
        with self.processes.failing_together(), self.writing(name):
            if self.is_main:
                model.save_pretrained(self.path / name)
        self._exported.add(name)

    @property
    def identity(self) -> dict[str, Any]:
        """The seed and digests of configuration and inputs, which a checkpoint keeps."""
        held = self._fingerprints
        return {
            "seed": self.config.seed,
            "configuration": held["configuration"],
            "inputs": digest(held["inputs"]),
        }

    def hold_to_inputs(self, here: Mapping[str, Any]) -> None:
        """Record fingerprints by name, or compare them with those it began with; every process calls it."""
        there = self._fingerprints["inputs"]
        with self.processes.failing_together(), self.writing("configuration"):
            if there and (changed := differences(there, here)):
                raise ConfigurationError(
                    f"{self.path} holds a run that was made from something else ({'; '.join(changed)}). Bring the "
                    "files back to what they were, choose another --run-dir, or start over with --fresh, which "
                    "moves the folder aside."
                )
            self._fingerprints["inputs"] = here
            if self.is_main:
                if self.has_begun and not there:
                    told = "does not say what it was made from; from now on it does"
                    self.say(f"the run in {self.path} {told}")
                self._write_fingerprints()
                self._describe()

    def _write_fingerprints(self) -> None:
        self.write(FINGERPRINTS, json.dumps(self._fingerprints, indent=2) + "\n")

    def start_trackers(self) -> None:
        """Start the trackers that the configuration names; every process calls it."""
        options = flatten(to_dict(self.config))
        with self.processes.failing_together(), self.writing("tracker's files"):
            self.accelerator.init_trackers("nacgen", {k: str(v) for k, v in options.items()})

    def end_trackers(self) -> None:
        """Close the trackers and the group of processes; every process calls it."""
        self.accelerator.wait_for_everyone()  # else one that leaves first may abort a peer
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
                self.check_lock()
                with self.writing("log"), open_text(self._log, "a") as file:
                    file.write(row + "\n")
            if tracked is not None:
                with self.writing("tracker's files"):
                    self.accelerator.log({**values, **tracked}, images_seen)

    def read_log(self) -> bytes:
        """Return the log, for a checkpoint. Only the main process calls it."""
        with self.writing("log"), suppress(FileNotFoundError), open_regular(self._log) as file:
            return file.read()
        return b""

    def sync_log(self) -> None:
        """Sync the log to the disk, before a checkpoint that holds its rows. Only the main process calls it."""
        with self.writing("log"), suppress(FileNotFoundError), open_regular(self._log) as file:
            sync(file.fileno())

    def restore_log(self, rows: bytes) -> None:
        """Give the log the rows of a checkpoint, so that a resumed log equals an uninterrupted one."""
        with self.processes.failing_together(), self.writing("log"):
            if not self.is_main:
                return
            found = self.read_log()
            if not found.startswith(rows):
                self.say(f"{self._log} is damaged; it gets the rows of the checkpoint")
            if found != rows:
                write_file(self._log, rows)

    def cut_log(self, images_seen: int, num_rows: int | None = None) -> None:
        """Drop the rows after a position, of a run of an earlier version, whose checkpoints have no log.

        At most `num_rows` stay: a position may have been evaluated after it was saved. Every process calls it.
        """
        with self.processes.failing_together(), self.writing("log"):
            if not self.is_main or not self._log.exists():
                return
            kept = []
            for line in self.read_log().decode(errors="replace").splitlines():
                with suppress(ValueError, KeyError, TypeError):  # cut off by a kill
                    if json.loads(line)["images_seen"] <= images_seen:
                        kept.append(line + "\n")
            write_file(self._log, "".join(kept[:num_rows]))

    def finish(
        self,
        result: TrainingResult | None = None,
        report: Callable[[Path], str] | None = None,
        **extra: Any,
    ) -> None:
        """Mark the run complete and print its summary as the last line of stdout; every process calls it.

        On a terminal the text of the report stands in the summary's place. Without a result, of a run that was
        complete before, the summary is repeated. `report` writes reports into the run folder and returns a text
        for stderr; `extra` values join the summary.
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
            names = (CONFIG_FILE, WEIGHTS_FILE)
            files = [f"{model}/{name}" for model in sorted(self._exported) for name in names]
            files += [f"{SAMPLES}/{p.name}" for p in sorted((self.path / SAMPLES).iterdir())]
            self._fingerprints["outputs"] = {file: file_digest(self.path / file) for file in files}
            if files:
                self._write_fingerprints()
            self.write(SUMMARY, json.dumps(summary, indent=2) + "\n")
        if report is not None:
            self.say("writing the report")
            tqdm.write(f"\n{report(self.path)}\n", file=sys.stderr)  # with commands as they are
        print_result(json.loads((self.path / SUMMARY).read_text("utf-8")))


@contextlib.contextmanager
def open_run(
    name: str, config: TrainingConfig, allow_fp16: bool = True, recipe: str | None = None
) -> Iterator[Run]:
    """Open a run: check its folder, set Accelerate up, lock the folder and write what the run is.

    A complete run is opened, too, but neither locked nor changed. A run that an error ends before its first row
    of the log and its first checkpoint leaves nothing behind.

    Args:
        name: Name of recipe and preset with a hyphen between; the default folder is `runs/<name>-seed<seed>`.
        config: Configuration of the run.
        allow_fp16: False for adversarial training and for clipped gradients.
        recipe: Name of the recipe, where the run is named after something else.

    Raises:
        ConfigurationError: The tracker is not installed or logged in, the folder holds another run, or
            the launcher chose fp16 where it is not allowed.
        NacgenError: A folder that the options of a run to be trained name does not exist.
        LockedError: Another process trains in the folder.
        StorageError: The folder cannot be written.

    Example:
        >>> folder = tempfile.mkdtemp()
        >>> with open_run("example", TrainingConfig(run_dir=folder)) as run:
        ...     (run.path / "config.yaml").is_file()
        True
    """
    path = config.folder(name)
    with storage_errors(f"the run in {path}", "Choose another --run-dir."):
        check_folder(path, config)
    require_tracker(config.run.tracker)
    accelerator, num_threads = build_accelerator(path, config, allow_fp16), torch.get_num_threads()
    run = Run(path, config, accelerator, recipe or name.partition("-")[0])
    try:
        if not run.is_complete:
            config.check_inputs()
        with contextlib.nullcontext() if run.is_complete else run._held(config.fresh):
            yield run
    finally:
        torch.set_num_threads(num_threads)
