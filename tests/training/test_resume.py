"""Resuming a run: its inputs, its launcher's settings, its checkpoints, log, lock and models are still its own."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from nacgen.data.datasets import load_dataset
from nacgen.errors import CheckpointError, ConfigurationError, LockedError, StorageError
from nacgen.models.encoder import NACEncoder
from nacgen.system import files, locks
from nacgen.system.files import write_file
from nacgen.training.checkpoint import load_checkpoint, save_checkpoint
from nacgen.training.config import RunConfig
from nacgen.training.data_record import record_data
from nacgen.training.generative import InitializedConfig
from nacgen.training.launcher import _check, build_accelerator
from nacgen.training.run import Run, TrainingResult, open_run
from tests.training.test_loop import LineUpdate, rows_of, train_line

IMAGES = load_dataset("digits", "test")
RESULT = TrainingResult(8, 1.0, 8.0, {})


def config(folder: Path, **options: Any) -> InitializedConfig:
    return InitializedConfig(run_dir=str(folder), run=RunConfig(tracker="none"), **options)


def begin(folder: Path, encoder: Path, images: Any = IMAGES, **options: Any) -> Run:
    with open_run("x", config(folder, encoder=str(encoder), **options)) as run:
        record_data(run, images, None, extractor="sha256:1", encoder=str(encoder))
        run.log(8, {"loss": 1.0})
    return run


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "encoder"
    NACEncoder(code_dim=8).save_pretrained(folder)
    return folder


def test_the_same_inputs_elsewhere_are_the_same(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path / "run", encoder)
    (tmp_path / "link").symlink_to(encoder)
    shutil.copytree(encoder, tmp_path / "copy")
    monkeypatch.chdir(encoder.parent)
    for other in (tmp_path / "link", tmp_path / "copy", Path("encoder"), f"{encoder}/"):
        begin(tmp_path / "run", other)  # type: ignore[arg-type]


def test_other_inputs_are_refused_and_named(tmp_path: Path, encoder: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "encoder"
    begin(run, encoder)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    shutil.copytree(encoder, other)
    NACEncoder(code_dim=8).save_pretrained(other)
    with pytest.raises(ConfigurationError, match=r"\(encoder: model\.\S+ \w{12} there, model"):
        begin(run, other)
    kept = json.loads((run / "fingerprints.json").read_text())
    (run / "fingerprints.json").write_text(json.dumps(dict(reversed(kept.items()))))
    with pytest.raises(ConfigurationError, match=r"encoder: model\."):
        begin(run, other)
    (run / "fingerprints.json").write_bytes(before[run / "fingerprints.json"])
    fewer = IMAGES.subset(torch.arange(100))
    with pytest.raises(
        ConfigurationError, match=r"\(training images: images 355.* there, images 1"
    ):
        begin(run, encoder, fewer)
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_run_without_fingerprints_gets_them_and_is_told(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path, encoder)
    for damage in (None, "", "[1]", '{"configuration": 1}', '{"inputs": 5}', '{"outputs": [1]}'):
        (tmp_path / "fingerprints.json").unlink()
        if damage is not None:
            (tmp_path / "fingerprints.json").write_text(damage)
        with pytest.raises(ConfigurationError, match="encoder: "):  # so paths are compared
            begin(tmp_path, encoder.parent)
        capsys.readouterr()
        begin(tmp_path, encoder)
        assert "does not say what it was made from; from now on it does" in capsys.readouterr().err


def test_damaged_models_of_a_complete_run_are_found(tmp_path: Path, encoder: Path) -> None:
    options = config(tmp_path, encoder=str(encoder))
    with open_run("x", options) as run:
        run.export(NACEncoder(code_dim=8), "encoder")
        run.finish(RESULT)
    with open_run("x", options) as run:
        assert run.is_complete
    summary = (tmp_path / "summary.json").read_text()
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"summary.json is damaged \(it is no summary\)"):
        open_run("x", options).__enter__()
    (tmp_path / "summary.json").write_text(summary)
    (tmp_path / "encoder" / "config.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"encoder/config.json is damaged, and no checkpoint"):
        open_run("x", options).__enter__()


def test_damaged_pictures_of_a_complete_run_are_made_again_if_they_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = config(tmp_path)
    with open_run("x", options) as run:
        (tmp_path / "samples" / "images_8.png").write_bytes(b"a picture")
        run.hold_to_inputs({"training images": "some"})
        run.finish(RESULT)
    (tmp_path / "samples" / "images_8.png").write_bytes(b"")
    with open_run("x", options) as run:
        assert run.is_complete  # without a checkpoint nothing can be done about pictures
    (tmp_path / "checkpoints" / "step_000000000008").mkdir(parents=True)
    capsys.readouterr()
    with open_run("x", options) as run:
        assert not run.is_complete
    assert "is damaged; its end is repeated from the last checkpoint" in capsys.readouterr().err
    with open_run("x", dataclasses.replace(options, data_dir="elsewhere")) as run:
        assert not run.is_complete
    told = "data_dir was None, is elsewhere; if it holds the same, its end is repeated"
    assert told in capsys.readouterr().err


def test_a_complete_run_is_mended_from_its_last_checkpoint(tmp_path: Path) -> None:
    def evaluate(images_seen: int) -> dict[str, Any]:
        return {"score": 1.0}

    def train() -> None:
        _, result = train_line(tmp_path, evaluate=evaluate)
        assert result.evaluation == {"score": 1.0}

    train()
    log = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "summary.json").write_bytes(b"")  # as a power cut leaves it
    train()
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_a_damaged_log_is_restored_from_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_line(tmp_path)
    log = tmp_path / "metrics.jsonl"
    whole = log.read_bytes()
    for damaged in (
        b"",
        whole[:40],
        whole.replace(b"8", b"9"),
        whole[:40] + bytes(40) + whole[80:],
    ):
        log.write_bytes(damaged)
        train_line(tmp_path)
        assert log.read_bytes() == whole
        assert f"{log} is damaged; it gets the rows of the checkpoint" in capsys.readouterr().err
    log.write_bytes(whole + b'{"images_seen": 56}\n')  # not damaged, but after the checkpoint
    train_line(tmp_path)
    assert log.read_bytes() == whole
    assert "is damaged" not in capsys.readouterr().err


def test_a_whole_checkpoint_that_somebody_altered_is_refused(tmp_path: Path) -> None:
    train_line(tmp_path)
    root = tmp_path / "checkpoints"
    loaded = load_checkpoint(root)
    assert loaded is not None
    parts, state = loaded
    forged: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"run": 5}, {}, "its run"),
        ({"seconds": None}, {}, "its times"),
        ({"best": {"images_seen": 8}}, {}, "its best evaluation"),
        ({}, {"log": {"column": torch.zeros(1)}}, "its log"),
        ({}, {"log": {"rows": torch.zeros(1, dtype=torch.bfloat16)}}, "its log"),
    ]
    for states, tensors, named in forged:
        save_checkpoint(root, parts | tensors, state | states, 48)
        with pytest.raises(CheckpointError, match=f"{named} cannot be read"):
            train_line(tmp_path)
    del parts["log"], state["run"]  # as in earlier versions
    save_checkpoint(root, parts, state, 48)
    train_line(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")
    save_checkpoint(root, parts, state, 48)
    with pytest.raises(StorageError, match="it is a pipe"):
        train_line(tmp_path)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train_line(tmp_path / "one")
    train_line(tmp_path / "other", run={"log_every": 16})
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "one" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"belongs to another run \(configuration: "):
        train_line(tmp_path / "one")


def test_foreign_things_among_checkpoints_do_no_harm(tmp_path: Path) -> None:
    train_line(tmp_path)
    root = tmp_path / "checkpoints"
    (root / "step_000000000040").write_text("a note")  # newer than the second last
    (root / "step_000000000024").symlink_to(tmp_path)
    os.mkfifo(root / ".new-1")
    os.mkfifo(root / "step_000000000016")
    os.mkfifo(max(root.glob("step_*")) / "state.json.new")  # which damages the newest
    shutil.rmtree(root / "step_000000000032")
    with pytest.raises(CheckpointError, match="none is whole"):
        train_line(tmp_path)
    shutil.rmtree(root)
    (root / "nested").mkdir(parents=True)
    train_line(tmp_path)
    (root / "step_000000000049").write_text("newer than all")
    (root / "step_000000000001").write_text("older than all")
    update, _ = train_line(tmp_path)
    assert update.seen == []
    assert (root / "step_000000000001").exists()
    assert [path.read_text() for path in root.glob("damaged-*49-0")] == ["newer than all"]


def test_a_pipe_in_place_of_the_log_is_refused(tmp_path: Path) -> None:
    with open_run("x", config(tmp_path)) as run:
        os.mkfifo(tmp_path / "metrics.jsonl")
        with pytest.raises(StorageError, match="the log in"):
            run.log(8, {"loss": 1.0})
        reader = os.open(tmp_path / "metrics.jsonl", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(StorageError, match="is no regular file"):
            run.log(8, {"loss": 1.0})
        os.close(reader)


def test_another_precision_is_refused_and_other_hardware_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run("x", config(tmp_path)) as run:
        run.log(8, {"loss": 1.0})
    facts = json.loads((tmp_path / "environment.json").read_text())
    assert (facts["gradient_accumulation"], facts["dynamo_backend"]) == (1, "no")
    changed = facts | {"threads": facts["threads"] + 1, "mixed_precision": "bf16"}
    (tmp_path / "environment.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigurationError, match=r"precision bf16, but .* --mixed_precision bf16"):
        open_run("x", config(tmp_path)).__enter__()
    (tmp_path / "environment.json").write_text(json.dumps(changed | {"mixed_precision": "no"}))
    capsys.readouterr()
    with open_run("x", config(tmp_path)):
        assert f"(threads: {facts['threads'] + 1} there" in capsys.readouterr().err
    with open_run("x", config(tmp_path)):
        assert "warning" not in capsys.readouterr().err
    (tmp_path / "environment.json").write_bytes(b"")
    with open_run("x", config(tmp_path)):
        assert "environment.json is damaged: nobody can tell" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "GRADIENT_ACCUMULATION_STEPS",
            "4",
            r"must be 1 .* got 4.*--gradient_accumulation_steps 1",
        ),
        ("GRADIENT_ACCUMULATION_STEPS", "many", "launcher's settings .*STEPS=many"),
        ("MIXED_PRECISION", "fp8", "fp8"),
        ("MIXED_PRECISION", "fp4", "must be no, bf16 or fp16, got fp4"),
        ("DYNAMO_BACKEND", "aot_eager", "got aot_eager: .*--dynamo_backend no"),
        ("DYNAMO_BACKEND", "unheard_of", "launcher's settings .*BACKEND=unheard_of"),
        ("TORCH_DEVICE", "meta", "launcher's settings .*TORCH_DEVICE=meta"),
        ("USE_DEEPSPEED", "true", "launcher's settings .*USE_DEEPSPEED=true"),
    ],
)
def test_settings_of_the_launcher_that_change_training_are_refused(
    name: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(ConfigurationError, match=message):
        open_run("x", config(tmp_path / "run")).__enter__()
    assert not (tmp_path / "run").exists()


def test_sharded_networks_are_refused(tmp_path: Path) -> None:
    accelerator = build_accelerator(tmp_path, config(tmp_path), True)
    names = ("mixed_precision", "gradient_accumulation_steps", "state")
    facts = {name: getattr(accelerator, name) for name in names}
    for kind in DistributedType:
        settings: Any = SimpleNamespace(**facts, distributed_type=kind)
        if kind.value == "NO" or kind.value.startswith("MULTI_"):
            _check(settings, True)
        else:
            with pytest.raises(ConfigurationError, match=f"whole networks, got .* {kind.value}"):
                _check(settings, True)


def failing(number: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EBADF, errno.EIO])
def test_file_systems_without_locks_or_sync_are_told_once(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(files, "_warned", set())
    monkeypatch.setattr(locks, "lock_descriptor", failing(number))
    monkeypatch.setattr(os, "fsync", failing(number))
    if number == errno.EIO:
        with pytest.raises(StorageError, match=r"error. Choose another|error\)\. Choose another"):
            train_line(tmp_path)
        return
    train_line(tmp_path)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning:" in line]
    assert len(warnings) == 2
    assert "has no locks" in warnings[0]
    assert "a power cut may lose what was saved last" in warnings[1]


def test_a_deleted_lock_is_taken_again_unless_another_run_has_come(tmp_path: Path) -> None:
    with open_run("x", config(tmp_path)) as run:
        (tmp_path / ".lock").unlink()
        run.log(8, {"loss": 1.0})
        with pytest.raises(LockedError, match="in use by"):
            locks.lock_folder(tmp_path)
        (tmp_path / ".lock").unlink()
        other = locks.lock_folder(tmp_path)
        for _ in range(2):  # while the other runs, and after it
            with pytest.raises(LockedError, match=r"was deleted, and another run has begun in it"):
                run.log(16, {"loss": 1.0})
            other.close()
    assert [row["images_seen"] for row in rows_of(tmp_path)] == [8]
    with open_run("x", config(tmp_path)) as again:
        (tmp_path / ".lock").unlink()
        again.log(16, {"loss": 1.0})
    with open_run("x", config(tmp_path)):  # the new lock ends with its run, too
        assert again.is_main


def test_a_run_whose_folder_is_renamed_ends_with_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    update = LineUpdate()
    step = update.update

    def rename(batch: Any) -> Any:
        if batch.images_seen == 0:
            folder.rename(tmp_path / "renamed")
        return step(batch)

    update.update = rename  # type: ignore[method-assign]
    with pytest.raises(StorageError, match=r"the lock in .* No such file"):
        train_line(folder, update)


def test_a_run_stops_before_it_saves_into_anothers_folder(tmp_path: Path) -> None:
    update = LineUpdate()
    step = update.update

    def replace_lock(batch: Any) -> Any:
        if batch.images_seen == 8:
            (tmp_path / ".lock").unlink()
            locks.lock_folder(tmp_path).close()
        return step(batch)

    update.update = replace_lock  # type: ignore[method-assign]
    with pytest.raises(LockedError):
        train_line(tmp_path, update, run={"log_every": 48})
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_comes_before_the_first_row_of_the_log(tmp_path: Path) -> None:
    train_line(tmp_path, run={"log_every": 48})
    assert [row["images_seen"] for row in rows_of(tmp_path)] == [48]
    shutil.rmtree(max((tmp_path / "checkpoints").glob("step_*")))
    update, _ = train_line(tmp_path, run={"log_every": 48})
    assert [seen for seen, _ in update.seen] == [32, 40]
    assert [row["images_seen"] for row in rows_of(tmp_path)] == [48]


def test_a_model_whose_export_was_killed_halfway_is_exported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_at_config(path: Path, *rest: Any) -> None:
        if path.name == "config.json" and path.parent.name == "encoder":
            raise KeyboardInterrupt
        write_file(path, *rest)

    def export(is_killed: bool) -> None:
        with monkeypatch.context() as patch, open_run("x", config(tmp_path)) as run:
            assert not run.is_complete
            run.log(8, {"loss": 1.0})
            if is_killed:
                patch.setattr("nacgen.models.folder.write_file", die_at_config)
            run.export(NACEncoder(code_dim=16), "encoder")
            run.finish(RESULT)

    def export_in_parts() -> None:
        with pytest.raises(KeyboardInterrupt):
            export(is_killed=True)
        with pytest.raises(CheckpointError):
            NACEncoder.from_pretrained(tmp_path / "encoder")
        export(is_killed=False)
        assert NACEncoder.from_pretrained(tmp_path / "encoder").code_dim == 16

    with open_run("x", config(tmp_path)) as run:
        run.log(8, {"loss": 1.0})
        run.export(NACEncoder(code_dim=8), "encoder")
    export_in_parts()
    (tmp_path / "checkpoints" / "step_000000000008").mkdir(parents=True)
    (tmp_path / "encoder" / "config.json").write_bytes(b"")  # in a complete run
    export_in_parts()
