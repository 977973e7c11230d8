"""The folder of a run. Refusals that the loop's tests show already are not repeated here."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nacgen.errors import CheckpointError, ConfigurationError, LockedError, StorageError
from nacgen.system import locks
from nacgen.system.files import write_file
from nacgen.training import run_folder
from nacgen.training.config import RunConfig, TrainingConfig, parse, to_dict
from nacgen.training.environment import describe_hardware
from nacgen.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


def config(folder: Path | None, **options: Any) -> TrainingConfig:
    return TrainingConfig(run_dir=None if folder is None else str(folder), **options)


def created(folder: Path, **options: Any) -> RunFolder:
    run = RunFolder("x", config(folder, **options))
    run.create({"device": "cpu"})
    return run


def test_the_default_folder_is_named_after_recipe_preset_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder("train_gan-digits-nac", config(None, seed=3))
    assert run.path == Path("runs/train_gan-digits-nac-seed3")
    assert run.config.run_dir == "runs/train_gan-digits-nac-seed3"
    assert not list(tmp_path.iterdir())


def test_what_the_run_is_stands_in_its_folder(tmp_path: Path) -> None:
    run = created(tmp_path / "run", seed=4, run=RunConfig(log_every=64))
    run.release()
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["device"] == "cpu"
    assert {"command", "python", "versions", "threads", "gpu"} <= facts.keys()
    assert {"nacgen", "torch", "accelerate"} <= facts["versions"].keys()
    file = tmp_path / "run" / "config.yaml"
    again = parse(TrainingConfig, {"digits": TrainingConfig()}, ["--config", str(file)])
    assert dataclasses.replace(again, config=None) == run.config
    RunFolder("x", again)  # is the same run


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"threads": 2}, "2 CPU cores"),
        ({"threads": 1, "num_processes": 1, "device": "cpu"}, "1 CPU core"),
        ({"threads": 4, "num_processes": 2, "device": "cpu", "gpu": "NVIDIA H100"}, "8 CPU cores"),
        ({"num_processes": 4, "device": "cuda:0", "gpu": "NVIDIA H100"}, "4 x NVIDIA H100"),
        ({"num_processes": 1, "device": "mps", "gpu": None}, "1 x mps"),
        ({}, "unknown hardware"),
    ],
)
def test_hardware_is_said_in_words(environment: dict[str, Any], words: str) -> None:
    assert describe_hardware(environment) == words


def test_every_difference_is_listed_and_nothing_else(tmp_path: Path) -> None:
    created(tmp_path, seed=0, run=RunConfig(log_every=64)).release()
    with pytest.raises(ConfigurationError) as refused:
        RunFolder("x", config(tmp_path, seed=7, batch_size=32, run=RunConfig(log_every=128)))
    listed = (
        "batch_size: 64 there, 32 here; run.log_every: 64 there, 128 here; seed: 0 there, 7 here"
    )
    assert f"{tmp_path} holds a run of another configuration ({listed})." in str(refused.value)
    assert "choose another --run-dir" in str(refused.value)


def test_options_that_one_side_lacks_are_differences(tmp_path: Path) -> None:
    created(tmp_path).release()
    file = tmp_path / "config.yaml"
    text = file.read_text()
    file.write_text(text + "extra: 5\n")
    with pytest.raises(ConfigurationError, match=r"\(extra: 5 there, absent here\)"):
        RunFolder("x", config(tmp_path))
    file.write_text("".join(line for line in text.splitlines(True) if "seed" not in line))
    with pytest.raises(ConfigurationError, match=r"\(seed: absent there, 0 here\)"):
        RunFolder("x", config(tmp_path))


def test_where_the_folder_and_its_options_came_from_does_not_matter(tmp_path: Path) -> None:
    created(tmp_path / "run").release()
    (tmp_path / "run").rename(tmp_path / "moved")
    run = RunFolder("x", config(tmp_path / "moved", config="options.yaml"))
    assert run.config.config is None


def test_folders_that_hold_no_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigurationError, match=f"{tmp_path} has no config.yaml"):
        RunFolder("x", config(tmp_path))
    with pytest.raises(StorageError, match=f"{tmp_path}/thesis.tex is a file"):
        RunFolder("x", config(tmp_path / "thesis.tex"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("[1")
    with pytest.raises(ConfigurationError, match=r"run/config\.yaml is not valid YAML"):
        RunFolder("x", config(tmp_path / "run"))


def test_a_folder_whose_setting_up_was_cut_short_is_taken(tmp_path: Path) -> None:
    run = created(tmp_path / "run")
    run.release()
    (tmp_path / "run" / "environment.json").unlink()
    (tmp_path / "run" / "config.yaml").rename(tmp_path / "run" / ".config.yaml.new")
    created(tmp_path / "run").release()
    assert (tmp_path / "run" / "config.yaml").is_file()


def test_the_log_is_cut_behind_a_position(tmp_path: Path) -> None:
    run = created(tmp_path)
    run.cut_log(0)  # there is none yet
    assert not (tmp_path / "metrics.jsonl").exists()
    rows = [{"images_seen": seen, "loss": seen / 7} for seen in (8, 16, 24, 32)]
    for row in rows:
        run.log(row)
    run.log({"images_seen": 16, "fid": 3})  # an evaluation
    log = tmp_path / "metrics.jsonl"
    whole = log.read_text()
    with log.open("a") as file:
        file.write('{"images_seen": 8, "lo')  # a kill came between
    run.cut_log(32)
    assert log.read_text() == whole
    run.cut_log(16)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        *rows[:2],
        {"images_seen": 16, "fid": 3},
    ]
    run.cut_log(16, num_rows=2)  # the evaluation came after the save
    assert [json.loads(line) for line in log.read_text().splitlines()] == rows[:2]
    assert run.settle_log() == 2
    run.log(rows[2])
    assert run.settle_log() == 3
    log.write_bytes(log.read_bytes() + b'[8]\n{"images": 8}\n\xff\xfe\n')
    run.cut_log(32)
    assert [json.loads(line) for line in log.read_text().splitlines()] == rows[:3]
    run.cut_log(0)
    assert log.read_text() == ""


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    run = RunFolder("x", config(tmp_path / "run"), is_main=False)
    run.create({})
    run.log({"images_seen": 8})
    run.cut_log(0)
    run.write_summary({})
    run.release()
    assert not (tmp_path / "run").exists()


def test_a_lock_ends_with_its_release(tmp_path: Path) -> None:
    first = created(tmp_path)
    with pytest.raises(LockedError, match=f"{tmp_path} is in use by process {os.getpid()} on"):
        RunFolder("x", config(tmp_path)).create({})
    first.release()
    first.release()  # twice is no error
    second = RunFolder("x", config(tmp_path))
    second.create({})
    second.release()


def test_a_lock_holds_against_other_processes_and_dies_with_its_owner(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from nacgen.training.config import TrainingConfig\n"
        "from nacgen.training.run_folder import RunFolder\n"
        "run = RunFolder('x', TrainingConfig(run_dir=sys.argv[1]))\n"
        "run.create({})\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
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
        with pytest.raises(LockedError, match=f"in use by process {other.pid} on"):
            created(tmp_path)
    finally:
        other.kill()
        other.communicate()
    created(tmp_path).release()


def test_a_run_starts_over_beside_what_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    for number, seed in enumerate((3, 4), start=1):  # of another configuration each time
        run = created(folder, seed=seed, fresh=seed == 4)
        run.write_summary({"seed": seed})
        run.release()
        again = RunFolder("x", config(folder, seed=0, fresh=True))
        assert not again.is_complete
        assert (folder / "summary.json").is_file()  # nothing is moved before the run is set up
        again.create({})
        again.release()
        assert not again.is_complete
        old = tmp_path / f"run.old-{2 * number - 1}"
        assert json.loads((old / "summary.json").read_text()) == {"seed": seed}
        assert f"{folder} was moved to {old}" in capsys.readouterr().err
        assert not (folder / "summary.json").exists()
    assert "fresh" not in (folder / "config.yaml").read_text()
    assert RunFolder("x", config(folder, seed=0)).config == again.config  # resumes


def test_a_run_in_progress_is_not_moved(tmp_path: Path) -> None:
    first = created(tmp_path / "run")
    with pytest.raises(LockedError, match=f"in use by process {os.getpid()}"):
        created(tmp_path / "run", fresh=True)
    first.log({"images_seen": 8})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    first.release()


def test_a_fresh_run_takes_new_folders_and_refuses_those_that_hold_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(tmp_path / "run", fresh=True).release()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigurationError, match=f"{tmp_path} has no config.yaml"):
        created(tmp_path, fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "thesis.tex"]
    monkeypatch.chdir(tmp_path / "run" / "samples")
    with pytest.raises(ConfigurationError, match="must not be the working folder"):
        created(tmp_path / "run", fresh=True)


def test_a_lock_on_a_folder_that_was_moved_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the lock and taking it, a fresh run moved the folder and made a new one."""
    created(tmp_path / "run").release()
    lock = locks.lock_descriptor

    def late(descriptor: int, blocking: bool) -> bool:
        (tmp_path / "run").rename(tmp_path / "run.old-1")
        (tmp_path / "run").mkdir()
        return lock(descriptor, blocking=blocking)

    monkeypatch.setattr(locks, "lock_descriptor", late)
    with pytest.raises(LockedError):
        locks.lock_folder(tmp_path / "run")


def test_folders_that_cannot_be_written_fail_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for name, words in (("x" * 300, "too long"), ("file/run", "Not a dir"), ("file", "is a file")):
        with pytest.raises(StorageError, match=words):
            RunFolder("x", config(tmp_path / name))

    def read_only(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", read_only)
    with pytest.raises(StorageError, match="Read-only file system"):
        RunFolder("x", config(tmp_path / "new" / "run"))
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "summary.json").write_text("{}")
    (tmp_path / "done" / "config.yaml").write_text(
        yaml.safe_dump(to_dict(config(tmp_path / "done")))
    )
    assert RunFolder("x", config(tmp_path / "done")).is_complete  # has nothing to write


def test_links_in_place_of_files_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    run = created(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "victim")
    (tmp_path / "run" / ".summary.json.new").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="the log in"):
        run.log({"images_seen": 8})
    with pytest.raises(StorageError, match="the summary in"):
        run.write_summary({})
    run.release()
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(StorageError, match="the configuration in"):
        created(tmp_path / "run")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_summary_marks_the_run_complete(tmp_path: Path) -> None:
    run = created(tmp_path)
    assert not run.is_complete
    run.write_summary({"images_seen": 48, "scores": {"fid": 3.5}})
    assert run.is_complete
    assert RunFolder("x", config(tmp_path)).read_summary() == {
        "images_seen": 48,
        "scores": {"fid": 3.5},
    }
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/summary\.json should hold a JSON"):
        run.read_summary()
    run.release()


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    run = RunFolder("x", config(tmp_path / "run"))
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(StorageError, match=rf"in {tmp_path}/run cannot be written \("):
        run.create({})


def test_a_text_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "summary.json"
    write_file(file, "old")

    def full(self: Path, target: Path) -> Path:
        assert file.read_text() == "old"
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            write_file(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    write_file(file, "new")
    assert file.read_text() == "new"
