import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nacgen.errors import ConfigurationError
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import TrainingResult
from nacgen.training.run import finish, open_run
from nacgen.training.run_folder import RunFolder


def config(folder: Path, **options: Any) -> TrainingConfig:
    return TrainingConfig(run_dir=str(folder), run=RunConfig(tracker="none"), **options)


def finished(folder: Path, **extra: Any) -> RunFolder:
    run = RunFolder("x", config(folder))
    run.create({})
    result = TrainingResult(48, 2.0, 24.0, {"evaluation": {"scores": {"fid": 3.5}}})
    finish(run, result, **extra)
    return run


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("allow_fp16", [True, False])
def test_half_precision_is_refused_for_gans_alone(
    precision: str, allow_fp16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Accelerate itself wants a GPU for fp16
    chosen = SimpleNamespace(mixed_precision=precision, is_main_process=True)
    monkeypatch.setattr("nacgen.training.run.Accelerator", lambda **_: chosen)
    if precision != "fp16" or allow_fp16:
        assert open_run("x", config(tmp_path / "run"), allow_fp16)[1] is chosen
    else:
        with pytest.raises(
            ConfigurationError,
            match="must be no or bf16 for adversarial training, got fp16: .* one gradient scaler, and "
            r"gradient penalties overflow in it\. Launch with --mixed_precision bf16",
        ):
            open_run("x", config(tmp_path / "run"), allow_fp16)
    assert not (tmp_path / "run").exists()  # nothing is written in either case


def test_an_opened_run_has_the_launchers_choice_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run, accelerator = open_run("x", config(tmp_path / "run"), allow_fp16=False)
    assert accelerator.mixed_precision == "bf16"
    assert (accelerator.num_processes, run.is_main) == (1, True)
    assert accelerator.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not (tmp_path / "run").exists()


def test_another_configuration_is_refused_before_devices_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path)

    def touched(**_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("nacgen.training.run.Accelerator", touched)
    with pytest.raises(ConfigurationError, match="seed: 0 there, 7 here"):
        open_run("x", config(tmp_path, seed=7))


def test_the_last_line_is_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def report(folder: Path) -> str:
        assert json.loads((folder / "summary.json").read_text())["images_seen"] == 48
        return "A report."

    run = finished(tmp_path, report=report, encoder="some/folder")
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
    assert summary == run.read_summary()
    assert "A report." in err
    again = RunFolder("x", config(tmp_path))
    again.create({})  # the lock is free
    again.release()


def test_a_complete_run_says_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path)
    first = capsys.readouterr().out
    finish(RunFolder("x", config(tmp_path)))
    out, err = capsys.readouterr()
    assert out == first
    assert f"{tmp_path} holds this run, complete; nothing to do" in err


def test_other_processes_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder("x", config(tmp_path / "run"), is_main=False)
    finish(run, TrainingResult(48, 2.0, 24.0, {}), lambda _: "A report.")
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "run").exists()
