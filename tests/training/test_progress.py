import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nacgen.system.terminal import guarded_streams, print_result
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.loop import Goal, train
from nacgen.training.progress import Progress
from nacgen.training.run import TrainingResult, open_run
from tests.gan.small_gan import build

SCORES = {"evaluation": {"scores": {"fid": {"value": 12.34, "bias": 0.5}}}, "elbo": -7.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_of(folder: Path, evaluate: Callable[[int], dict[str, Any]]) -> None:
    update, stream, _ = build()
    config = TrainingConfig(
        run_dir=str(folder),
        total_images=160,
        batch_size=8,
        run=RunConfig(log_every=8, checkpoint_every=160, tracker="none"),
    )
    goal = Goal("evaluation.scores.fid.value", "lower")
    with open_run("x", config) as run:
        train(update, stream, run, evaluate=evaluate, evaluate_every=80, goal=goal)


def test_without_a_terminal_every_tenth_is_one_line_with_losses_and_the_newest_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path, lambda seen: SCORES if seen == 80 else {})
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if " of 160 images (" in line]
    assert [line.partition(",")[0] for line in lines] == [
        f"{seen} of 160 images ({seen / 160:.0%})" for seen in range(16, 161, 16)
    ]
    assert "\r" not in err
    assert all("left: loss_" in line for line in lines)
    assert [line.endswith(", fid 12.3") for line in lines] == [False] * 4 + [True] * 6


def test_on_a_terminal_a_bar_shows_the_newest_score_and_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with guarded_streams():  # which tell libraries that they are no terminals
        run_of(tmp_path, lambda seen: SCORES)
    text = terminal.getvalue()
    assert "\revaluating:" in text
    assert "fid=12.3" in text.rpartition("\r")[2]
    assert "elbo" not in text
    assert " left: " not in text


def test_a_resumed_run_tells_of_its_own_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(100, 47, "bits_per_dim", True) as progress:
        progress.note_evaluation({"bits_per_dim": 4.5, "rate": 1.0, "evaluation": {"scores": {}}})
        progress.note_losses({"loss": 1234.5})
        for seen in (49, 50, 51, 95):
            progress.move_to(seen)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("50 of 100 images (50%), 00:00 left: bits_per_dim 4.5, loss 1230")
    assert last.startswith("95 of 100 images (95%)")


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, 0, None, False) as progress:
        progress.note_losses({"loss": 1.0})
        progress.move_to(10)
    assert capsys.readouterr().err == ""


def test_the_closing_json_is_for_programs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {}
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stdout", stream)
        with guarded_streams():
            with open_run("x", TrainingConfig(run_dir=str(tmp_path / str(len(outputs))))) as run:
                run.finish(TrainingResult(8, 1.0, 8.0, {}))
            print_result({"a": 1})
        outputs[type(stream)] = stream.getvalue()
    assert json.loads(outputs[io.StringIO].splitlines()[0])["images_seen"] == 8
    assert outputs[io.StringIO].splitlines()[1:] == ['{"a": 1}']
    assert outputs[Terminal] == ""
