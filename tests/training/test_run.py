"""Opening, holding and finishing a run. Refusals that the loop's tests show already are not repeated here."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from nacgen.errors import CheckpointError, ConfigurationError, DataError, LockedError, StorageError
from nacgen.system import locks
from nacgen.training import run_folder
from nacgen.training.command import run_recipe
from nacgen.training.config import DataConfig, RunConfig, TrainingConfig, parse, to_dict
from nacgen.training.environment import describe_hardware
from nacgen.training.run import Run, TrainingResult, open_run

ROOT = Path(__file__).parents[2]
RESULT = TrainingResult(48, 2.0, 24.0, {"evaluation": {"scores": {"fid": 3.5}}})


def config(folder: Path | None, **options: Any) -> TrainingConfig:
    options = {"run": RunConfig(tracker="none")} | options
    return TrainingConfig(run_dir=None if folder is None else str(folder), **options)


def begun(folder: Path, **options: Any) -> Run:
    """A run with a row in its log."""
    with open_run("train_x-digits", config(folder, **options)) as run:
        run.log(8, {"loss": 1.0})
    return run


def finished(folder: Path, **extra: Any) -> Run:
    with open_run("train_x-digits", config(folder)) as run:
        run.finish(RESULT, **extra)
    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(folder: Path, error: type[Exception], match: str, **options: Any) -> None:
    with pytest.raises(error, match=match), open_run("x", config(folder, **options)):
        pass


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("allow_fp16", [True, False])
def test_half_precision_is_refused_for_gans_alone(
    precision: str, allow_fp16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Accelerate itself wants a GPU for fp16
    chosen = SimpleNamespace(
        mixed_precision=precision,
        is_main_process=True,
        process_index=0,
        num_processes=1,
        device=torch.device("cpu"),
        gradient_accumulation_steps=1,
        distributed_type=SimpleNamespace(value="NO"),
        state=SimpleNamespace(dynamo_plugin=SimpleNamespace(backend=SimpleNamespace(value="NO"))),
    )
    monkeypatch.setattr("nacgen.training.launcher.Accelerator", lambda **_: chosen)
    if precision != "fp16" or allow_fp16:
        with open_run("x", config(tmp_path / "run"), allow_fp16) as run:
            assert run.accelerator is chosen
        return
    with (
        pytest.raises(
            ConfigurationError,
            match="must be no or bf16 for adversarial training and flows, got fp16: .* gradient scaler, "
            r"which penalties overflow and clipping mistakes\. Launch with --mixed_precision bf16",
        ),
        open_run("x", config(tmp_path / "run"), allow_fp16),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_an_opened_run_has_the_launchers_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with open_run("x", config(tmp_path / "run"), allow_fp16=False) as run:
        assert run.accelerator.mixed_precision == "bf16"
        assert (run.processes.num_processes, run.is_main) == (1, True)
        assert run.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_default_folder_is_named_after_recipe_preset_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_run("train_gan-digits-nac", config(None, seed=3)) as run:
        assert run.path == Path("runs/train_gan-digits-nac-seed3")
        assert run.config.run_dir == "runs/train_gan-digits-nac-seed3"


def test_the_folder_says_what_the_run_is(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", seed=4, run=RunConfig(log_every=64))
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (facts["recipe"], facts["device"], facts["num_processes"]) == ("train_x", "cpu", 1)
    assert {"command", "python", "versions", "threads", "gpu", "mixed_precision"} <= facts.keys()
    assert {"nacgen", "torch", "accelerate"} <= facts["versions"].keys()
    assert facts["hardware"].keys() == {"kind", "count", "name"}
    assert (facts["hardware"]["kind"], facts["hardware"]["count"]) == ("cpu", facts["threads"])
    assert describe_hardware(facts) == run.hardware
    file = tmp_path / "run" / "config.yaml"
    again = parse(TrainingConfig, {"digits": TrainingConfig()}, ["--config", str(file)])
    assert dataclasses.replace(again, config=None) == run.config
    with open_run("x", again):
        pass  # is the same run


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"threads": 2}, "2 CPU threads"),
        ({"threads": 1, "num_processes": 1, "device": "cpu"}, "1 CPU thread"),
        (
            {"threads": 4, "num_processes": 2, "device": "cpu", "gpu": "NVIDIA H100"},
            "8 CPU threads",
        ),
        ({"num_processes": 4, "device": "cuda:0", "gpu": "NVIDIA H100"}, "4 x NVIDIA H100"),
        ({"num_processes": 1, "device": "mps", "gpu": None}, "1 x mps"),
        ({}, "unknown hardware"),
    ],
)
def test_hardware_is_said_in_words(environment: dict[str, Any], words: str) -> None:
    assert describe_hardware(environment) == words


def test_every_difference_is_listed_before_devices_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path, run=RunConfig(log_every=64))

    def touched(**_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("nacgen.training.run.Accelerator", touched)
    listed = r"\(batch_size: 64 there, 32 here; run.log_every: 64 there, 128 here; seed: 0 there, 7 here\)"
    changed = {"seed": 7, "batch_size": 32, "run": RunConfig(log_every=128)}
    refuse(
        tmp_path,
        ConfigurationError,
        f"{tmp_path} holds a run of another configuration {listed}.*choose another --run-dir",
        **changed,
    )


def test_a_file_that_names_another_runs_folder_is_said_to(tmp_path: Path) -> None:
    begun(tmp_path)
    file = str(tmp_path / "config.yaml")
    refuse(tmp_path, ConfigurationError, f"--run-dir; {file} names this one", config=file, seed=3)


def test_the_place_of_the_folder_does_not_matter(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    elsewhere = config(tmp_path / "moved", config="options.yaml", data=DataConfig(cache="none"))
    with open_run("x", elsewhere) as run:
        assert run.config.config is None


def test_folders_that_hold_no_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    refuse(tmp_path, ConfigurationError, f"{tmp_path} has no config.yaml")
    refuse(tmp_path, ConfigurationError, f"{tmp_path} has no config.yaml", fresh=True)
    refuse(tmp_path / "thesis.tex", StorageError, f"{tmp_path}/thesis.tex is a file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("[1")
    refuse(tmp_path / "run", ConfigurationError, r"run/config\.yaml is not valid YAML")
    assert names(tmp_path) == ["run", "thesis.tex"]


@pytest.mark.parametrize("killed_at", ["config.yaml", "environment.json", "samples"])
def test_a_folder_whose_setting_up_was_cut_short_is_taken(tmp_path: Path, killed_at: str) -> None:
    with open_run("x", config(tmp_path / "run", seed=3)):
        pass
    if killed_at != "samples":
        (tmp_path / "run" / "environment.json").unlink()
    if killed_at == "config.yaml":
        (tmp_path / "run" / "config.yaml").rename(tmp_path / "run" / ".config.yaml.host.1.new")
    run = begun(tmp_path / "run", seed=4)  # another command: nothing had begun
    assert not run.has_begun
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 4


def fail(folder: Path, *, after_a_row: bool = False, **options: Any) -> None:
    """A run whose data are not found, or that fails later."""

    def main() -> None:
        with open_run("x", config(folder, **options)) as run:
            (run.path / "tensorboard").mkdir()
            if after_a_row:
                run.log(8, {"loss": 1.0})
            raise DataError("not found")

    with pytest.raises(DataError, match="not found"):
        main()


def test_a_run_that_fails_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    fail(tmp_path / "runs" / "run")
    assert not (tmp_path / "runs" / "run").exists()
    (tmp_path / "empty").mkdir()
    fail(tmp_path / "empty")
    assert names(tmp_path / "empty") == []
    fail(tmp_path / "begun", after_a_row=True)
    assert {"config.yaml", "metrics.jsonl", "tensorboard"} <= set(names(tmp_path / "begun"))
    fail(tmp_path / "empty", seed=1)
    begun(tmp_path / "empty", seed=2)  # the corrected command


def test_a_fresh_run_that_fails_before_it_begins_gives_the_old_one_back(tmp_path: Path) -> None:
    begun(tmp_path / "run", seed=3)
    before = (tmp_path / "run" / "config.yaml").read_text()
    fail(tmp_path / "run", fresh=True)
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    fail(tmp_path / "run", fresh=True, after_a_row=True)
    assert names(tmp_path) == ["run", "run.old-1"]


def test_the_log_is_cut_behind_a_position(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    rows = [{"images_seen": seen, "loss": seen / 7} for seen in (8, 16, 24, 32)]

    def there() -> list[Any]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    with open_run("x", config(tmp_path)) as run:
        run.cut_log(0)  # there is none yet
        assert not log.exists()
        for row in rows:
            run.log(row["images_seen"], {"loss": row["loss"]})  # type: ignore[arg-type]
        run.log(16, {"fid": 3})  # an evaluation
        whole = log.read_text()
        with log.open("a") as file:
            file.write('{"images_seen": 8, "lo')  # a kill came between
        run.cut_log(32)
        assert log.read_text() == whole
        run.cut_log(16)
        assert there() == [*rows[:2], {"images_seen": 16, "fid": 3}]
        run.cut_log(16, num_rows=2)  # the evaluation came after the save
        assert there() == rows[:2]
        kept = run.read_log()
        assert kept == log.read_bytes()
        run.log(24, {"loss": 24 / 7})
        log.write_bytes(log.read_bytes() + b'[8]\n{"images": 8}\n\xff\xfe\n')
        run.cut_log(32)
        assert there() == rows[:3]
        run.cut_log(0)
        assert log.read_text() == ""
        run.restore_log(kept)
        assert log.read_bytes() == kept


def test_only_the_main_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.is_main_process", False)
    with open_run("x", config(tmp_path / "run")) as run:
        run.log(8, {})
        run.cut_log(0)
        run.finish(RESULT, lambda _: "A report.")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_a_lock_holds_until_the_run_is_left(tmp_path: Path) -> None:
    with open_run("x", config(tmp_path / "run")):
        for is_fresh in (False, True):  # a run in progress is not moved, either
            owner = f"{tmp_path}/run is in use by process {os.getpid()} on"
            refuse(tmp_path / "run", LockedError, owner, fresh=is_fresh)
        assert names(tmp_path) == ["run"]
        assert "config.yaml" in names(tmp_path / "run")
    begun(tmp_path / "run")


def test_a_lock_holds_against_other_processes_and_dies_with_its_owner(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from nacgen.training.config import TrainingConfig\n"
        "from nacgen.training.run import open_run\n"
        "with open_run('x', TrainingConfig(run_dir=sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        refuse(tmp_path, LockedError, f"in use by process {other.pid} on")
    finally:
        other.kill()
        other.communicate()
    begun(tmp_path)


def test_a_lock_on_a_folder_that_was_moved_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the lock and taking it, a fresh run moved the folder and made a new one."""
    (tmp_path / "run").mkdir()
    lock = locks.lock_descriptor

    def late(descriptor: int, **options: Any) -> bool:
        (tmp_path / "run").rename(tmp_path / "run.old-1")
        (tmp_path / "run").mkdir()
        return bool(lock(descriptor, **options))

    monkeypatch.setattr(locks, "lock_descriptor", late)
    with pytest.raises(LockedError):
        locks.lock_folder(tmp_path / "run")


def test_a_run_starts_over_beside_what_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    finished(folder)
    again = begun(folder, seed=5, fresh=True)  # another configuration
    assert not again.is_complete
    old = tmp_path / "run.old-1"
    assert json.loads((old / "summary.json").read_text())["images_seen"] == 48
    assert f"{folder} was moved to {old}" in capsys.readouterr().err
    assert not (folder / "summary.json").exists()
    assert "fresh" not in (folder / "config.yaml").read_text()
    with open_run("x", config(folder, seed=5)) as resumed:
        assert resumed.config == again.config
        assert resumed.has_begun
    begun(folder, fresh=True)
    assert names(tmp_path) == ["run", "run.old-1", "run.old-2"]


def test_the_working_folder_is_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run" / "samples")
    refuse(tmp_path / "run", ConfigurationError, "must not be the working folder", fresh=True)


def test_folders_that_cannot_be_written_fail_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for name, words in (("x" * 300, "too long"), ("file/run", "Not a dir"), ("file", "is a file")):
        refuse(tmp_path / name, StorageError, words)

    def read_only(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", read_only)
    refuse(tmp_path / "new" / "run", StorageError, "Read-only file system")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "summary.json").write_text("{}")
    (tmp_path / "done" / "config.yaml").write_text(
        yaml.safe_dump(to_dict(config(tmp_path / "done")))
    )
    with open_run("x", config(tmp_path / "done")) as run:
        assert run.is_complete  # has nothing to write


def test_links_in_place_of_files_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    with open_run("x", config(tmp_path / "run")) as run:
        (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "victim")
        own = f".summary.json.{socket.gethostname()}.{os.getpid()}.new"
        (tmp_path / "run" / own).symlink_to(tmp_path / "victim")
        with pytest.raises(StorageError, match="the log in"):
            run.log(8, {})
        with pytest.raises(StorageError, match="the summary in"):
            run.finish(RESULT)
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    refuse(tmp_path / "run", StorageError, "the configuration in")
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_last_line_is_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def report(folder: Path) -> str:
        assert json.loads((folder / "summary.json").read_text())["images_seen"] == 48
        return "A report."

    finished(tmp_path, report=report, encoder="some/folder")
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert out.count("\n") == 1
    assert summary == {
        "run_dir": str(tmp_path),
        "images_seen": 48,
        "seconds": 2.0,
        "images_per_second": 24.0,
        "encoder": "some/folder",
        "evaluation": {"scores": {"fid": 3.5}},
    }
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert err.endswith("writing the report\n\nA report.\n\n")


def test_a_complete_run_says_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    first = capsys.readouterr().out
    with open_run("x", config(tmp_path)) as run:
        assert run.is_complete
        run.finish()
        out, err = capsys.readouterr()
        assert out == first
        assert f"{tmp_path} holds this run, complete; nothing to do" in err
    refuse(tmp_path, ConfigurationError, "seed: 0 there, 3 here", seed=3)
    (tmp_path / "summary.json").write_text("{")
    refuse(tmp_path, CheckpointError, "summary.json is damaged .* no checkpoint to make it whole")


def test_a_complete_run_needs_its_inputs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "data").mkdir()

    def recipe(config: TrainingConfig) -> None:
        with open_run(config.run_name, config) as run:
            run.finish(None if run.is_complete else RESULT)

    def start(*flags: str) -> str:
        given = ["recipe", "--dataset", "folder", "--data-dir", "data", "--run.tracker", "none"]
        monkeypatch.setattr(sys, "argv", [*given, *flags])
        run_recipe(recipe, TrainingConfig, {"digits": TrainingConfig()})
        return capsys.readouterr().out

    firsts = start(), start("--run-dir", "own")
    (tmp_path / "data").rename(tmp_path / "moved")
    assert (start(), start("--run-dir", "own")) == firsts
    for flags in ([], ["--run-dir", "own"]):
        with pytest.raises(SystemExit):  # of a run to be trained
            start(*flags, "--fresh")
    with pytest.raises(SystemExit):
        start("--run-dir", "other")
    (tmp_path / "runs/train_y-digits-seed1").mkdir()
    (tmp_path / "runs/train_y-digits-seed1/summary.json").touch()  # another recipe's
    with pytest.raises(SystemExit):
        start("--seed", "1")
    assert capsys.readouterr().err.count("data") >= 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "own", "runs"]


def test_a_launched_program_is_told_that_it_trains_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AcceleratorState._shared_state, "num_processes", 2)
    with (
        pytest.raises(ConfigurationError, match=r"in 2 processes trains one run.*without a launch"),
        open_run("x", TrainingConfig(run_dir=str(tmp_path / "run"))),
    ):
        pass
