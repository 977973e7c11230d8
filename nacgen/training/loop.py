"""The loop: position, learning rates, log, checkpoints, evaluation. It knows no method of training."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from nacgen.data.stream import ImageStream
from nacgen.errors import EXIT_PREEMPTED, CheckpointError, ConfigurationError, DivergenceError
from nacgen.training.checkpoint import (
    discard_checkpoints_after,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from nacgen.training.config import flatten, to_dict
from nacgen.training.parent import StopSignals
from nacgen.training.run_folder import RunFolder
from nacgen.training.update import Schedule, Update, constant, group_factor

Evaluation = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Args:
        images_seen: By all processes together, over all sessions of the run.
        seconds: Spent in this run, pauses between its sessions not counted.
        images_per_second: Evaluation and saving not counted.
        evaluation: What the last evaluation gave.
    """

    images_seen: int
    seconds: float
    images_per_second: float
    evaluation: dict[str, Any]


def train(
    update: Update,
    stream: ImageStream,
    run: RunFolder,
    accelerator: Accelerator,
    *,
    schedule: Schedule = constant,
    evaluate: Evaluation | None = None,
    evaluate_every: int | None = None,
) -> TrainingResult:
    """Train until the configured number of images, resuming where the run folder left off.

    Args:
        update: The method.
        stream: Batches by position.
        run: Created and locked here.
        accelerator: The one that the update was prepared with.
        schedule: Factor on every learning rate, by images seen.
        evaluate: Called with the images seen, on all processes; its values join the log.
        evaluate_every: Images between two evaluations; the end is always evaluated.

    Returns:
        How it ended.

    Raises:
        NonFiniteError: From the update; the last checkpoint stands.
        DivergenceError: From the update; the last checkpoint from before stands, later ones are removed.
        CheckpointError: The run's checkpoints are damaged or do not fit.
        ConfigurationError: A time between two rows, checkpoints or evaluations is below one image.
        StorageError: The run folder cannot be written; earlier checkpoints stand.
        SystemExit: 143, after a checkpoint, when asked to stop by SIGTERM or SIGINT.
    """
    total, batch_size, times = run.config.total_images, run.config.batch_size, run.config.run
    _check_times(
        log_every=times.log_every,
        checkpoint_every=times.checkpoint_every,
        evaluate_every=total if evaluate_every is None else evaluate_every,
    )
    run.create(
        {
            "device": str(accelerator.device),
            "num_processes": accelerator.num_processes,
            "mixed_precision": accelerator.mixed_precision,
        }
    )
    accelerator.wait_for_everyone()
    options = flatten(to_dict(run.config))
    with run.writing("tracker's files"):
        accelerator.init_trackers("nacgen", {name: str(value) for name, value in options.items()})
    state = _resume(update, run)
    images_seen: int = state["images_seen"]
    run.cut_log(images_seen)
    base_rates = {
        group_id: group["lr"]
        for optimizer in update.optimizers.values()
        for group_id, group in _groups(optimizer)
    }
    clock = _Clock(state["seconds"], state["training_seconds"])
    evaluation: dict[str, Any] = {}
    with _stop_requests() as stop_requested, _progress(accelerator, total, images_seen) as bar:
        while images_seen < total:
            factor = schedule(images_seen)
            for optimizer in update.optimizers.values():
                for group_id, group in _groups(optimizer):
                    group["lr"] = base_rates[group_id] * factor * group_factor(group, images_seen)
            try:
                logs = update.update(stream.batch(images_seen))
            except DivergenceError as error:
                if accelerator.is_main_process:
                    discard_checkpoints_after(run.checkpoints, error.since)
                raise
            images_seen += batch_size
            bar.update(batch_size)

            def is_due(every: int | None, now: int = images_seen) -> bool:
                return now >= total or (every is not None and now % every < batch_size)

            if is_due(times.log_every):
                values = _average(logs, accelerator)
                bar.set_postfix({k: f"{v:.3g}" for k, v in values.items() if "loss" in k})
                run.log({"images_seen": images_seen, **values})
                with run.writing("tracker's files"):
                    accelerator.log(
                        values | {"images_per_second": clock.rate(images_seen)}, images_seen
                    )
            # Several processes agree on stopping when they meet for the log, not in every step.
            agree = accelerator.num_processes > 1
            stopping = (
                _any_process(stop_requested(), accelerator)
                if not agree or is_due(times.log_every)
                else False
            )
            with clock.paused():
                if evaluate is not None and is_due(evaluate_every):
                    evaluation = evaluate(images_seen)
                    run.log({"images_seen": images_seen, **evaluation})
                if stopping or is_due(times.checkpoint_every):
                    _save(update, run, images_seen, clock)
                    accelerator.wait_for_everyone()
            if stopping and images_seen < total:
                with run.writing("tracker's files"):
                    accelerator.end_training()
                accelerator.print(
                    f"\nstopped at {images_seen} images and saved; the same command resumes",
                    file=sys.stderr,
                )
                raise SystemExit(EXIT_PREEMPTED)
    if (
        evaluate is not None and not evaluation
    ):  # killed between the last checkpoint and the summary
        evaluation = evaluate(images_seen)
    with run.writing("tracker's files"):
        accelerator.end_training()
    return TrainingResult(images_seen, clock.seconds(), clock.rate(images_seen), evaluation)


class _Clock:
    """Wall time of a run over all its sessions: in full, and of training alone."""

    def __init__(self, seconds: float, training_seconds: float) -> None:
        now = time.monotonic()
        self._start, self._training_start = now - seconds, now - training_seconds

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def training_seconds(self) -> float:
        return time.monotonic() - self._training_start

    def rate(self, images_seen: int) -> float:
        return images_seen / max(self.training_seconds(), 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._training_start += time.monotonic() - start


def _check_times(**times: int) -> None:
    for name, every in times.items():
        if every < 1:
            raise ConfigurationError(
                f"{name} must be 1 or more images, got {every}. Give the length of training to have it at "
                "the end only."
            )


def _groups(optimizer: torch.optim.Optimizer) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    for i, group in enumerate(optimizer.param_groups):
        yield (id(optimizer), i), group


def _average(logs: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """Mean over processes, as numbers."""
    values = torch.stack([value.detach().float() for value in logs.values()])
    values = accelerator.reduce(values, "mean")
    return dict(zip(logs, values.tolist(), strict=True))


def _any_process(flag: bool, accelerator: Accelerator) -> bool:
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


def _progress(accelerator: Accelerator, total: int, images_seen: int) -> "tqdm[Any]":
    return tqdm(
        total=total,
        initial=images_seen,
        unit=" images",
        unit_scale=True,
        file=sys.stderr,
        dynamic_ncols=True,
        disable=not accelerator.is_main_process,
    )


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGTERM or SIGINT into a request to save and stop; a repeated one acts at once."""
    requested, signals = False, StopSignals()
    previous: dict[int, Any] = {}

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = True
        if signals.is_repeated(number):
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    for stop in (signal.SIGTERM, signal.SIGINT):
        previous[stop] = signal.signal(stop, request)
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parameter_names(modules: dict[str, nn.Module]) -> dict[Tensor, str]:
    return {p: f"{m}.{name}" for m in modules for name, p in modules[m].named_parameters()}


def _save(update: Update, run: RunFolder, images_seen: int, clock: _Clock) -> None:
    if not run.is_main:
        return
    modules = dict(update.modules)
    names = _parameter_names(modules)
    parts = {
        name: {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
        for name, module in modules.items()
    }
    for name, optimizer in update.optimizers.items():
        parts[f"optimizer_{name}"] = optimizer_tensors(optimizer.optimizer, names)
    times = {"seconds": clock.seconds(), "training_seconds": clock.training_seconds()}
    save_checkpoint(run.checkpoints, parts, times, images_seen)


def _resume(update: Update, run: RunFolder) -> dict[str, Any]:
    """Load the newest checkpoint into the update; every process reads it."""
    loaded = load_checkpoint(run.checkpoints)
    if loaded is None:
        return {"images_seen": 0, "seconds": 0.0, "training_seconds": 0.0}
    parts, state = loaded
    modules = dict(update.modules)
    expected = {*modules, *(f"optimizer_{name}" for name in update.optimizers)}
    if set(parts) != expected:
        raise CheckpointError(
            f"the checkpoint in {run.checkpoints} should hold {sorted(expected)}, but holds {sorted(parts)}. "
            "Resume with the version and configuration that wrote it."
        )
    for name, module in modules.items():
        here = {k: (tuple(v.shape), v.dtype) for k, v in module.state_dict().items()}
        there = {k: (tuple(v.shape), v.dtype) for k, v in parts[name].items()}
        if here != there:
            wrong = sorted(k for k in here.keys() | there.keys() if here.get(k) != there.get(k))
            raise CheckpointError(
                f"the checkpoint's {name} does not fit the model, {len(wrong)} differences: "
                f"{', '.join(wrong[:10])}. Resume with the configuration that wrote it."
            )
    for name, module in modules.items():
        module.load_state_dict(parts[name])
    names = _parameter_names(modules)
    for name, optimizer in update.optimizers.items():
        load_optimizer_tensors(optimizer.optimizer, names, parts[f"optimizer_{name}"])
    return state
