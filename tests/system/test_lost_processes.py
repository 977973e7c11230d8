"""Two processes on gloo: what happens to one ends both alike, and a run goes on with another number of them."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.data.stream import Batch, ImageStream
from nacgen.errors import CheckpointError, DataError, NacgenError, StorageError
from nacgen.system.locks import lock_folder
from nacgen.training import checkpoint
from nacgen.training.command import run_recipe
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import train
from nacgen.training.run import open_run
from nacgen.training.update import descend
from tests.processes import server

pytestmark = pytest.mark.distributed


class Slope:
    """A linear model of the pixels, whose gradient is exchanged between processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        torch.manual_seed(0)
        self.accelerator, self.model = accelerator, torch.nn.Linear(768, 1)
        adam = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        self.prepared, optimizer = accelerator.prepare(self.model, adam)
        self.modules = {"model": self.model}
        self.optimizers = {"model": optimizer}
        self.before: Callable[[Batch], None] = lambda batch: None
        self.scale = 1.0

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.before(batch)
        outputs = self.prepared(to_float(batch.images).flatten(1))
        loss = self.scale * (outputs - 1).square().mean()
        norm = descend(
            self.accelerator, loss, self.optimizers["model"], self.model.parameters(), batch
        )
        return {"loss": loss.detach(), "norm": norm}


def config(folder: Path, **options: Any) -> TrainingConfig:
    times = RunConfig(log_every=8, checkpoint_every=16, tracker="none", **options)
    return TrainingConfig(run_dir=str(folder), total_images=48, batch_size=8, run=times)


def start(folder: Path, **faults: Callable[..., None]) -> None:
    """Train, with faults before `step` or before reading a `batch`, called with the images seen."""
    with open_run("x", config(folder)) as run:
        index, number = run.processes.process_index, run.processes.num_processes
        update = Slope(run.accelerator)
        stream = ImageStream(load_dataset("digits"), 8, 0, "cpu", index, number)
        _add_faults(update, stream, **faults)
        train(update, stream, run)


def _add_faults(update: Slope, stream: ImageStream, **faults: Callable[..., None]) -> None:
    read = stream.batch

    def batch(images_seen: int) -> Batch:
        faults.get("batch", lambda _: None)(images_seen)
        return read(images_seen)

    stream.batch = batch  # type: ignore[method-assign]
    update.before = lambda batch: faults.get("step", lambda *_: None)(batch.images_seen, update)


def two_processes(
    folder: Path, main: Callable[..., None], *arguments: Any, timeout: int = 60
) -> list[int | None]:
    """Exit codes of a recipe on two processes; what they print goes to `<folder>/log-<rank>`.

    `main` is a function of this module, called with rank, arguments and folder.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work = partial(main, folder=folder), arguments
    processes = [
        server().Process(target=_be_process, args=(rank, port, folder, *work, timeout))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + 120
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _be_process(
    rank: int,
    port: int,
    folder: Path,
    main: Callable[..., None],
    arguments: tuple[Any, ...],
    timeout: int,
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {k: str(v) for k, v in (place | {"MASTER_PORT": port}).items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    log = os.open(folder / f"log-{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["recipe"]

    def recipe(_: TrainingConfig) -> None:
        with open_run("x", config(folder / "unused", timeout=timeout)):
            main(rank, *arguments)

    try:
        run_recipe(recipe, TrainingConfig, {"digits": TrainingConfig()})
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def error_of(folder: Path, **faults: Any) -> list[Any]:
    try:
        start(folder, **faults)
    except NacgenError as error:
        return [error.exit_code, str(error)]
    return [0, ""]


def go_wrong_in_turn(rank: int, folder: Path) -> None:
    found = {}

    def raising(error: Exception, on: int) -> Callable[[int], None]:
        def fault(images_seen: int) -> None:
            if (rank, images_seen) == (on, 24):
                raise error

        return fault

    def spoil(images_seen: int, update: Slope) -> None:
        if (rank, images_seen) == (1, 24):
            update.scale = float("nan")

    bad_image = raising(DataError("x.png cannot be decoded"), 1)
    found["image"] = error_of(folder / "image", batch=bad_image)
    found["nan"] = error_of(folder / "nan", step=spoil)
    with lock_folder(folder / "locked") if rank == 0 else nullcontext():
        found["lock"] = error_of(folder / "locked")
    write = checkpoint.write_synced

    def full(path: Path, pieces: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoint.write_synced = full if rank == 0 else write
    found["disk"] = error_of(folder / "disk")
    checkpoint.write_synced = write
    read = checkpoint._read
    checkpoint._read = raising_oserror if rank == 0 else read  # type: ignore[assignment]
    found["damage"] = error_of(folder / "image")  # which has a checkpoint at 16
    checkpoint._read = read if rank == 0 else raising_oserror  # type: ignore[assignment]
    found["other disk"] = error_of(folder / "image")
    (folder / f"found-{rank}").write_text(json.dumps(found))


def test_what_goes_wrong_on_one_process_ends_both_with_one_error(tmp_path: Path) -> None:
    """One fault after the other in the same two processes, which stay in step through all of them."""
    (tmp_path / "locked").mkdir()
    codes = two_processes(tmp_path, go_wrong_in_turn)
    assert codes == [0, 0], (tmp_path / "log-0").read_text()
    own, other = (json.loads((tmp_path / f"found-{rank}").read_text()) for rank in range(2))
    expected = {"image": 4, "nan": 3, "lock": 7, "disk": 6, "damage": 5, "other disk": 5}
    assert {name: code for name, (code, _) in own.items()} == expected
    assert {name: code for name, (code, _) in other.items()} == expected
    assert own["image"][1] == "process 1 stopped with DataError: x.png cannot be decoded"
    assert other["disk"][1].startswith("process 0 stopped with StorageError: the checkpoint")
    assert other["damage"][1].startswith("process 0 stopped with CheckpointError")
    kept = [path.name for path in (tmp_path / "nan" / "checkpoints").iterdir()]
    assert kept == ["step_000000000016"]
    assert not (tmp_path / "disk" / "checkpoints" / "step_000000000016").exists()


def raising_oserror(*_: Any) -> None:
    raise OSError(5, "Input/output error")


def stop(at: int, rank: int = 0) -> Callable[[int], None]:
    def fault(images_seen: int) -> None:
        if images_seen == at and int(os.environ.get("RANK", "0")) == rank:
            os.kill(os.getpid(), signal.SIGTERM)

    return fault


def stop_both(rank: int, folder: Path) -> None:
    start(folder / "parts", batch=stop(24, rank=1))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """One, then two, then one: the same images in the same order. A signal to one process stops both."""
    start(tmp_path / "whole")
    with pytest.raises(SystemExit):
        start(tmp_path / "parts", batch=stop(8))
    assert two_processes(tmp_path, stop_both) == [143, 143], (tmp_path / "log-0").read_text()
    rows = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 4  # 16 alone, 16 by two
    start(tmp_path / "parts")
    one, parts = (
        [json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()]
        for n in ("whole", "parts")
    )
    assert [row["images_seen"] for row in parts] == [8, 16, 24, 32, 40, 48]
    for expected, row in zip(one, parts, strict=True):
        assert row == pytest.approx(expected, rel=1e-6)
    assert parts[:2] == one[:2]


def be_killed(rank: int, victim: int, folder: Path) -> None:
    def die(images_seen: int, update: Slope) -> None:
        if images_seen == 24 and rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    start(folder / "run", step=die)


@pytest.mark.parametrize(("victim", "name"), [(1, "process 1"), (0, "the first process")])
def test_a_killed_process_is_named_and_ends_the_run(tmp_path: Path, victim: int, name: str) -> None:
    codes = two_processes(tmp_path, be_killed, victim)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 8
    said = (tmp_path / f"log-{1 - victim}").read_text()
    assert f"{name} no longer answers" in said
    assert "Traceback" not in said


def be_hung(rank: int, folder: Path) -> None:
    def hang(images_seen: int, update: Slope) -> None:
        if images_seen == 24 and rank == 1:
            time.sleep(15)
            os._exit(77)

    begun = time.monotonic()
    try:
        start(folder / "run", step=hang)
    finally:
        (folder / "seconds").write_text(str(time.monotonic() - begun))


@pytest.mark.slow
def test_a_process_that_hangs_is_named_within_the_set_time(tmp_path: Path) -> None:
    assert two_processes(tmp_path, be_hung, timeout=3) == [8, 77]
    assert float((tmp_path / "seconds").read_text()) < 14
    assert "process 1 no longer answers" in (tmp_path / "log-0").read_text()


def fail_amid(rank: int, error: NacgenError, folder: Path) -> None:
    def fail(images_seen: int, update: Slope) -> None:
        if images_seen == 24 and rank == 1:
            raise error

    start(folder / "run", step=fail)


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError("odd file"), 5), (StorageError("full"), 6)]
)
def test_an_error_amid_a_step_is_told_before_its_process_ends(
    tmp_path: Path, error: NacgenError, code: int
) -> None:
    assert two_processes(tmp_path, fail_amid, error) == [code, code]
    said = (tmp_path / "log-0").read_text()
    assert f"error: process 1 stopped with {type(error).__name__}: {error}" in said
