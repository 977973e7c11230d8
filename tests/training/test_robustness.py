"""What a run does when disk, launcher, user or numbers fail it."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from nacgen.data.pictures import write_grid
from nacgen.errors import (
    ConfigurationError,
    NonFiniteError,
    StorageError,
    is_storage_failure,
)
from nacgen.system import signals as parent
from nacgen.training.command import run_recipe
from nacgen.training.config import (
    RunConfig,
    TrainingConfig,
    parse,
    require_between,
    require_positive,
)
from nacgen.training.run import TrainingResult, open_run
from nacgen.training.trackers import require_tracker
from tests.gan.small_gan import build

ROOT = Path(__file__).parents[2]
ACCELERATE = ("accelerate.commands.launch", "--cpu")
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")  # tests run side by side
TORCHRUN = ("torch.distributed.run", "--master-port", str(29519 + int(WORKER)))
PRESETS = {"digits": TrainingConfig()}


def config(folder: Path, **options: object) -> TrainingConfig:
    run = RunConfig(log_every=8, checkpoint_every=16, tracker="none")
    return TrainingConfig(run_dir=str(folder), total_images=32, batch_size=8, run=run, **options)  # type: ignore[arg-type]


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond a size: writing more fails with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def recipe(main: object, monkeypatch: pytest.MonkeyPatch, *flags: str) -> object:
    """The exit code of a recipe."""
    monkeypatch.setattr(sys, "argv", ["recipe", *flags])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # the recipe sets its own
    with pytest.raises(SystemExit) as end:
        run_recipe(main, TrainingConfig, PRESETS)  # type: ignore[arg-type]
    return end.value.code


def test_a_full_disk_is_a_storage_error_wherever_it_strikes(tmp_path: Path) -> None:
    images = torch.randint(0, 255, (100, 3, 16, 16), dtype=torch.uint8)
    with (
        files_end_at(50),
        pytest.raises(StorageError, match=f"the run in {tmp_path}/run cannot"),
        open_run("x", config(tmp_path / "run")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with open_run("x", config(tmp_path)) as run, files_end_at(50):
        with pytest.raises(StorageError, match=r"the log in .*File too large.*checkpoints are int"):
            run.log(8, {"loss": [0.1] * 20})
        with pytest.raises(StorageError, match="the summary in"):
            run.finish(TrainingResult(8, 1.0, 8.0, {"loss": [0.1] * 20}))
        with pytest.raises(StorageError, match="the sample grid in"), run.writing("sample grid"):
            write_grid(images, tmp_path / "grid.png", 10)
        with pytest.raises(StorageError, match="the generator in"), run.writing("generator"):
            save_file({"x": torch.zeros(1000)}, tmp_path / "model.safetensors")
    assert not (tmp_path / "summary.json").exists()
    assert not list(tmp_path.glob(".*.new"))


@pytest.mark.parametrize(
    ("error", "is_failure"),
    [
        (OSError(28, "No space left on device"), True),
        (PermissionError(13, "Permission denied"), True),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (FileNotFoundError(2, "No such file"), False),
        (OSError("Writer is closed"), False),
        (ValueError("28"), False),
    ],
)
def test_storage_failures_are_told_from_other_errors(error: Exception, is_failure: bool) -> None:
    assert is_storage_failure(error) == is_failure


def test_a_recipe_ends_with_6_for_a_full_disk_and_shows_other_bugs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(config: TrainingConfig) -> None:
        raise OSError(28, "No space left on device", "runs/x/y")

    def bug(config: TrainingConfig) -> None:
        raise FileNotFoundError(2, "No such file")

    assert recipe(full, monkeypatch) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert "[Errno 28] No space left on device: 'runs/x/y'" in line
    with pytest.raises(FileNotFoundError):
        run_recipe(bug, TrainingConfig, PRESETS)


def test_control_c_outside_of_the_loop_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: TrainingConfig) -> None:
        raise KeyboardInterrupt

    assert recipe(main, monkeypatch) == 130
    assert capsys.readouterr().err.startswith("interrupted; the same command")


def test_a_loss_that_is_not_finite_names_its_network_and_what_can_be_done() -> None:
    update, stream, _ = build()
    with torch.no_grad():
        update.discriminator.requires_grad_(True)
        next(iter(update.discriminator_step.trainable)).fill_(float("nan"))
    with pytest.raises(NonFiniteError) as caught:
        update.update(stream.batch(8))
    message = str(caught.value)
    assert message.startswith(
        "the discriminator's loss must stay finite, but at 8 images seen it is nan"
    )
    assert "a lower learning rate and another --run-dir" in message
    update, stream, _ = build()
    with torch.no_grad():
        for group in update.optimizers["discriminator"].param_groups:
            group["lr"] = 1e30  # the discriminator's step is finite, and ruins it
    with pytest.raises(NonFiniteError, match="the generator's loss must stay finite"):
        update.update(stream.batch(0))


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = TrainingConfig(run_dir=str(tmp_path / "new"), run=RunConfig(tracker=tracker))  # type: ignore[arg-type]
    message = f"installed. pip install {tracker}, or"
    with pytest.raises(ConfigurationError, match=message), open_run("x", options):
        pass
    assert not (tmp_path / "new").exists()


def test_wandb_without_a_login_ends_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "wandb"
    package.mkdir()
    (package / "errors.py").write_text("class Error(Exception): ...\n")
    refusal = 'raise Error("api_key not configured (no-tty)")'
    (package / "__init__.py").write_text(
        f"from wandb.errors import Error\ndef login():\n    {refusal}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    options = TrainingConfig(run_dir=str(tmp_path / "new"), run=RunConfig(tracker="wandb"))
    message = r"W&B says: api_key not configured \(no-tty\)\. Run `wandb login`, set WANDB_API_KEY"
    with pytest.raises(ConfigurationError, match=message), open_run("x", options):
        pass
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_tracker("wandb")
    for name in ("wandb", "wandb.errors"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@dataclass(frozen=True)
class OptimConfig:
    rate: float = 1.0
    most_channels: tuple[int, ...] = (8, 8)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_out_of_range_name_their_flag_in_full(value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"got {value}. Change --optim.rate.$"):
        require_positive(OptimConfig(rate=value), "rate")
    with pytest.raises(ConfigurationError, match=f"0.5 and 2, got {value}. Change --optim.rate.$"):
        require_between(OptimConfig(rate=value), 0.5, 2, "rate")


def test_several_numbers_are_checked_one_by_one() -> None:
    for channels in ((8, 0), ()):
        with pytest.raises(ConfigurationError, match=r"Change --optim\.most-channels"):
            require_positive(OptimConfig(most_channels=channels), "most_channels")
    with pytest.raises(ConfigurationError, match=r"batch_size .* got 0. Change --batch-size\."):
        TrainingConfig(batch_size=0)
    require_positive(OptimConfig(), "rate", "most_channels")


def test_an_error_in_a_file_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("preset: [digits]\n")
    with pytest.raises(ConfigurationError, match=rf"got \['digits'\] in {file}"):
        parse(TrainingConfig, PRESETS, ["--config", str(file)])
    file.write_text("seed: x\n")
    with pytest.raises(SystemExit):
        parse(TrainingConfig, PRESETS, ["--config", str(file)])
    assert f"The fault lies in {file}." in capsys.readouterr().err
    file.write_text("seed: 1\n")
    with pytest.raises(SystemExit):
        parse(TrainingConfig, PRESETS, ["--config", str(file), "--batch-size", "x"])
    assert str(file) not in capsys.readouterr().err


def test_the_echo_of_a_signal_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(parent.time, "monotonic", lambda: now)
    signals = parent.StopSignals()
    assert not signals.is_repeated(signal.SIGINT)
    now += 0.2
    assert not signals.is_repeated(signal.SIGINT)
    now += 10
    assert not signals.is_repeated(signal.SIGTERM)  # another kind: the launcher gave up
    assert signals.is_repeated(signal.SIGINT)


def test_without_a_launcher_nothing_is_tied_to_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    monkeypatch.setattr(parent, "stop_with_parent", lambda: calls.append(None))
    for mark in parent.LAUNCHER_MARKS:
        monkeypatch.delenv(mark, raising=False)
    parent.stop_with_launcher()
    assert not calls
    for mark in parent.LAUNCHER_MARKS:
        monkeypatch.setenv(mark, "x")
        parent.stop_with_launcher()
        monkeypatch.delenv(mark)
    assert len(calls) == 2


@pytest.mark.distributed
@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told by Linux only")
@pytest.mark.parametrize(
    ("launcher", "number", "whole_group"),
    [
        (ACCELERATE, signal.SIGTERM, False),
        pytest.param(ACCELERATE, signal.SIGTERM, True, marks=pytest.mark.slow),
        pytest.param(ACCELERATE, signal.SIGINT, True, marks=pytest.mark.slow),
        pytest.param(TORCHRUN, signal.SIGKILL, False, marks=pytest.mark.slow),
        pytest.param(TORCHRUN, signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param(TORCHRUN, signal.SIGINT, True, marks=pytest.mark.slow),
    ],
)
def test_no_recipe_trains_on_without_its_launcher(
    tmp_path: Path, launcher: tuple[str, ...], number: int, whole_group: bool
) -> None:
    folder = tmp_path / "run"
    flags = ("--preset", "smoke", "--run-dir", str(folder), "--total-images", "320000")
    flags += ("--run.num-threads", "1")
    command = [sys.executable, "-m", *launcher, "recipes/train_gan.py", *flags]
    command += ["--score.every", "320000", "--run.checkpoint-every", "320000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until((folder / "metrics.jsonl").exists, 120)
        recipe_id = int((folder / ".lock").read_text().split()[1])
        assert recipe_id != process.pid
        if whole_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        wait_until(lambda: not is_alive(recipe_id), 30)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    (checkpoint,) = (folder / "checkpoints").iterdir()
    seen = json.loads((checkpoint / "state.json").read_text())["images_seen"]
    assert (
        seen == json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["images_seen"]
    )
    assert f"stopped at {seen} images and saved" in (tmp_path / "log").read_text()


def wait_until(condition, seconds: float) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
