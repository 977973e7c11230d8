"""The training loop: position, learning rates, step, log, evaluation, checkpoints. It knows no method."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import CheckpointError, DivergenceError, StopRequestedError
from nacgen.system.documents import flatten
from nacgen.system.memory import KeptMemory
from nacgen.system.randomness import generator
from nacgen.system.signals import InterruptedBlock, Stopped, StopRequests
from nacgen.system.tensor_file import Tensors
from nacgen.training.checkpoint import discard_checkpoints_after, read_checkpoint, resume_checkpoint
from nacgen.training.checkpoint_writer import CheckpointWriter
from nacgen.training.fingerprints import differences
from nacgen.training.monitors import images_beyond
from nacgen.training.progress import Progress
from nacgen.training.run import Run, TrainingResult
from nacgen.training.snapshot import capture, restore
from nacgen.training.update import Schedule, Update, constant, group_factor

LOG = "log"  # part of a checkpoint with the rows of metrics.jsonl
Evaluation = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """The number of an evaluation, by its dotted name, that decides which checkpoint is the best."""

    name: str
    better: Literal["lower", "higher"]

    def value(self, evaluation: dict[str, Any]) -> float | None:
        """Return the number in an evaluation, None if it has none that is finite."""
        value = flatten(evaluation).get(self.name)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def is_better(self, value: float, best: float) -> bool:
        """Tell whether a number is better than another; an equal one is not."""
        return value < best if self.better == "lower" else value > best


def train(
    update: Update,
    stream: ImageStream,
    run: Run,
    *,
    schedule: Schedule = constant,
    evaluate: Evaluation | None = None,
    evaluate_every: int | None = None,
    goal: Goal | None = None,
) -> TrainingResult:
    """Train until the configured number of images, from the last checkpoint of the run if there is one.

    Several processes meet once before each step: a bad batch or a signal in one process ends all processes.

    Args:
        update: Method of training.
        stream: Batches by position.
        run: Run to train, whose accelerator the update was prepared with.
        schedule: Factor on every learning rate as a function of the images seen.
        evaluate: Function of the images seen, called on all processes; its values are logged.
        evaluate_every: Number of images between two evaluations; the end is always evaluated.
        goal: Logged number that tells which evaluation is best; its checkpoint is kept besides the last two.

    Raises:
        NonFiniteError: From the update; the last checkpoint stays.
        DivergenceError: From the update; the last checkpoint from before stays, later ones are removed.
        CheckpointError: The run's checkpoints are damaged or do not fit.
        SystemExit: 143, after a checkpoint, when asked to stop by SIGTERM or SIGINT. A run of
            one process interrupts its evaluation for that; the resumed run repeats the evaluation.
    """
    total, batch_size, times = run.config.total_images, run.config.batch_size, run.config.run
    run.start_trackers()
    session = _Session(update, run, evaluate, goal)
    base_rates = [group["lr"] for group in _groups(update)]

    def is_due(every: int | None) -> bool:
        seen = session.images_seen
        return seen >= total or (every is not None and seen % every < batch_size)

    with (
        StopRequests() as requests,
        Progress(
            total, session.images_seen, None if goal is None else goal.name, run.is_main
        ) as progress,
        session.writer,
        session.memory,
    ):
        # Repeat an evaluation that a signal interrupted in the last session.
        if session.owes_evaluation:
            with session.clock.paused(), progress.doing("evaluating"):
                if session.evaluate(requests) or is_due(times.checkpoint_every):
                    session.save()
            progress.note_evaluation(session.evaluation)
        while session.images_seen < total:
            # Batch of this position.
            batch = session.next_batch(stream, requests)
            # Learning rates, which are functions of the position.
            factor = schedule(session.images_seen)
            for base_rate, group in zip(base_rates, _groups(update), strict=True):
                group["lr"] = base_rate * factor * group_factor(group, session.images_seen)
            # Step. Networks that draw by torch's own generators, as dropout does, find them seeded.
            purpose = f"step/{run.accelerator.process_index}"
            torch.manual_seed(
                generator(run.config.seed, purpose, session.images_seen).initial_seed()
            )
            try:
                logs = update.update(batch)
            except DivergenceError as error:
                session.writer.wait_and_report()
                if run.is_main:
                    discard_checkpoints_after(run.checkpoints, error.since)
                raise
            session.images_seen += batch_size
            session.owes_evaluation = evaluate is not None and is_due(evaluate_every)
            # Log.
            if is_due(times.log_every):
                means = torch.stack([value.detach().float() for value in logs.values()])
                means = run.accelerator.reduce(means, "mean")  # over processes
                values = dict(zip(logs, means.tolist(), strict=True))
                progress.note_losses(values)
                run.log(session.images_seen, values, {"images_per_second": session.rate()})
            # Evaluation and checkpoint.
            with session.clock.paused():
                is_best = False
                if session.owes_evaluation:
                    with progress.doing("evaluating"):
                        is_best = session.evaluate(requests)
                    progress.note_evaluation(session.evaluation)
                if is_best or is_due(times.checkpoint_every):
                    session.save()
            progress.move_to(session.images_seen)
        with session.clock.paused(), progress.doing("saving"):
            session.end_save()
    # Evaluate again if the run was killed between its last checkpoint and its summary.
    if evaluate is not None and not session.evaluation:
        session.evaluation = evaluate(session.images_seen)
    return TrainingResult(
        session.images_seen, session.clock.seconds(), session.rate(), session.evaluation
    )


class _Session:
    """One session of a run, from its newest checkpoint: position, clock, best evaluation, checkpoints."""

    def __init__(
        self, update: Update, run: Run, evaluation: Evaluation | None, goal: Goal | None
    ) -> None:
        self.update, self.run, self.processes = update, run, run.processes
        self.writer = CheckpointWriter(run)
        self._evaluate, self.goal = evaluation, goal
        self.memory = KeptMemory(run.device.type == "cpu")
        self.evaluation: dict[str, Any] = {}
        state = self._resume()
        self.images_seen = self.saved_at = int(state["images_seen"])
        self.owes_evaluation = evaluation is not None and not state.get("is_evaluated", True)
        self.best: dict[str, Any] | None = state.get("best")
        self.clock = _Clock(state["seconds"], state["training_seconds"])

    def _resume(self) -> dict[str, Any]:
        """Find the newest whole checkpoint on the first process, and read it into the update on all."""
        root, loaded = self.run.checkpoints, None
        with self.processes.failing_together():
            if self.run.is_main:
                loaded = resume_checkpoint(root, self.run.config.total_images)
        position = 0 if loaded is None else 1 + loaded[1]["images_seen"]
        position = int(self.processes.sum(torch.tensor(position, device=self.processes.device)))
        if position == 0:
            self.run.restore_log(b"")
            return {"images_seen": 0, "seconds": 0.0, "training_seconds": 0.0}
        with self.processes.failing_together():
            parts, state = loaded or read_checkpoint(root, position - 1)
            log, run = parts.pop(LOG, None), state.get("run", self.run.identity)
            if fault := _fault(state, run, log):
                raise CheckpointError(
                    f"the checkpoint in {root} should say how the run stood, but {fault}. Resume with the version "
                    "that wrote it, or remove it, which resumes from the one before."
                )
            if run != self.run.identity:
                raise CheckpointError(
                    f"the checkpoint of {position - 1} images in {root} belongs to another run "
                    f"({'; '.join(differences(run, self.run.identity))}). Remove it, which resumes from the one "
                    "before, or start over with --fresh."
                )
            restore(self.update, parts, root)
        if log is None:
            self.run.cut_log(position - 1, state.get("rows"))
        else:
            self.run.restore_log(log["rows"].numpy().tobytes())
        return state

    def next_batch(self, stream: ImageStream, requests: StopRequests) -> Batch:
        """Read the batch of the position, or stop on all processes if a signal asked one to."""
        try:
            with self.processes.failing_together():
                self.writer.raise_failure()
                if requests.is_requested:
                    raise StopRequestedError("a signal asked to stop")
                return stream.batch(self.images_seen)
        except StopRequestedError:
            self.stop(requests)

    def evaluate(self, requests: StopRequests) -> bool:
        """Evaluate, and tell whether it is the best so far; if a signal interrupts it, save and stop."""
        assert self._evaluate is not None
        is_single = self.processes.num_processes == 1
        try:
            with self.memory.paused(), requests.interrupting() if is_single else nullcontext():
                self.evaluation = self._evaluate(self.images_seen)
        except InterruptedBlock:
            self.stop(requests)
        self.run.log(self.images_seen, self.evaluation)
        self.owes_evaluation = False
        return self.note_best()

    def note_best(self) -> bool:
        """Tell whether the evaluation is better than all before it; the first process decides."""
        is_best, value = False, None
        if self.goal is not None and self.run.is_main:
            value = self.goal.value(self.evaluation)
            is_best = value is not None and (
                self.best is None or self.goal.is_better(value, self.best["value"])
            )
        is_best = bool(self.processes.sum(torch.tensor(int(is_best), device=self.processes.device)))
        if is_best:
            self.best = {"images_seen": self.images_seen, "value": value}
        return is_best

    def rate(self) -> float:
        """Return the number of images per second."""
        return self.images_seen / max(self.clock.training_seconds(), 1e-9)

    def save(self) -> None:
        """Begin to write a checkpoint; if the first process could not write the one before, all raise."""
        with self.processes.failing_together():
            if self.run.is_main:
                self.run.check_lock()
                state = {
                    "seconds": self.clock.seconds(),
                    "training_seconds": self.clock.training_seconds(),
                    "run": self.run.identity,
                    "is_evaluated": not self.owes_evaluation,
                    "best": self.best,
                }
                rows = torch.from_numpy(np.frombuffer(bytearray(self.run.read_log()), np.uint8))
                self.writer.save(
                    capture(self.update) | {LOG: {"rows": rows}},
                    state,
                    self.images_seen,
                    best=None if self.best is None else self.best["images_seen"],
                    sound=self.images_seen - images_beyond(self.update.modules),
                )
        self.saved_at = self.images_seen

    def end_save(self) -> None:
        """Wait until the last checkpoint is in its place; if the first process cannot write it, all raise."""
        with self.processes.failing_together():
            self.writer.wait()

    def stop(self, requests: StopRequests) -> NoReturn:
        """Save the last steps, and end with the exit code of a stopped run."""
        if self.saved_at != self.images_seen:
            self.save()
        self.end_save()
        self.run.end_trackers()
        self.run.say(f"stopped at {self.images_seen} images and saved; the same command resumes")
        raise Stopped(requests.number)


class _Clock:
    """The wall time of a run over all its sessions: in full, and of training alone."""

    def __init__(self, seconds: float, training_seconds: float) -> None:
        now = time.monotonic()
        self._start, self._training_start = now - seconds, now - training_seconds
        self._paused_at: float | None = None

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def training_seconds(self) -> float:
        now = time.monotonic() if self._paused_at is None else self._paused_at
        return now - self._training_start

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._paused_at = start = time.monotonic()
        yield
        self._paused_at = None
        self._training_start += time.monotonic() - start


def _fault(state: dict[str, Any], run: Any, log: Tensors | None) -> str | None:
    """Return what a whole checkpoint lacks or has of a wrong type, None if nothing."""
    best = state.get("best") or {"images_seen": 0, "value": 0.0}
    is_right = {
        "its times": all(isinstance(state.get(k), float) for k in ("seconds", "training_seconds")),
        "its run": isinstance(run, dict),
        "its best evaluation": isinstance(best, dict)
        and type(best.get("images_seen")) is int
        and isinstance(best.get("value"), int | float),
        "its log": log is None or ("rows" in log and log["rows"].dtype == torch.uint8),
    }
    return next((f"{name} cannot be read" for name, right in is_right.items() if not right), None)


def _groups(update: Update) -> Iterator[dict[str, Any]]:
    for optimizer in update.optimizers.values():
        yield from optimizer.param_groups
