"""The CPU threads of a run: automatic, given, kept on resume, and recorded."""

import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml

from nacgen.errors import ConfigurationError
from nacgen.system.threads import count_cores
from nacgen.training import environment
from nacgen.training.command import run_recipe
from nacgen.training.config import RunConfig, TrainingConfig
from nacgen.training.run import open_run
from tests.launch import python


@pytest.fixture(autouse=True)
def automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which three threads are automatic."""
    monkeypatch.setattr(environment, "automatic_threads", lambda: 3)


def threads(folder: Path, given: int | None = None, fresh: bool = False) -> int:
    """Open a run that has begun when it is closed, and return the number of threads that torch has in it."""
    config = TrainingConfig(
        run_dir=str(folder), fresh=fresh, run=RunConfig(tracker="none", num_threads=given)
    )
    with open_run("x", config) as run:
        run.log(8, {"loss": 1.0})
        found = torch.get_num_threads()
        assert (run.config.run.num_threads, run.environment["threads"]) == (found, found)
    assert yaml.safe_load((folder / "config.yaml").read_text())["run"]["num_threads"] == found
    assert json.loads((folder / "environment.json").read_text())["threads"] == found
    return found


def test_a_run_says_and_keeps_how_many_threads_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    assert threads(tmp_path / "run") == 3
    assert torch.get_num_threads() == before  # of a program around it
    assert capsys.readouterr().err.count("training on 3 CPU threads\n") == 1
    monkeypatch.setattr(environment, "automatic_threads", lambda: 1)
    assert threads(tmp_path / "run") == 3
    told = capsys.readouterr().err
    assert (
        "3 CPU threads, as before; --run.num-threads 1 suits this machine, but rounds differently"
        in told
    )
    assert "warning" not in told
    assert threads(tmp_path / "run", fresh=True) == 1
    assert "training on 1 CPU thread\n" in capsys.readouterr().err


def test_a_number_that_is_given_is_taken_and_a_change_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert threads(tmp_path / "run", 2) == 2
    assert "as before" not in capsys.readouterr().err
    assert threads(tmp_path / "run", 1) == 1
    told = capsys.readouterr().err
    assert "(threads: 2 there, 1 here): sums are rounded otherwise" in told
    assert threads(tmp_path / "run") == 1


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"threads": 2}, 2),
        ({"threads": 2, "num_processes": 4}, 3),
        ({"threads": "2"}, 3),
        (None, 3),
    ],
)
def test_a_run_of_an_earlier_version_goes_on_as_its_environment_says(
    facts: dict[str, object] | None, expected: int, tmp_path: Path
) -> None:
    threads(tmp_path / "run", 1)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    del config["run"]["num_threads"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    there = json.loads((tmp_path / "run" / "environment.json").read_text())
    text = "damaged" if facts is None else json.dumps(there | facts)
    (tmp_path / "run" / "environment.json").write_text(text)
    assert threads(tmp_path / "run") == expected


def test_a_damaged_environment_leaves_the_number_of_the_configuration(tmp_path: Path) -> None:
    threads(tmp_path / "run", 2)
    (tmp_path / "run" / "environment.json").write_text("damaged")
    assert threads(tmp_path / "run") == 2


@pytest.mark.parametrize("number", [0, -1, 1025])
def test_absurd_numbers_of_threads_are_refused(number: int) -> None:
    message = rf"num_threads must be between 1 and 1024, got {number}\. Change --run\.num-threads"
    with pytest.raises(ConfigurationError, match=message):
        RunConfig(num_threads=number)


def test_libraries_find_the_number_before_they_are_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[str] = []
    monkeypatch.setattr(sys, "argv", ["recipe"])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    for given, expected in (("7", "7"), ("", str(count_cores()))):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        run_recipe(
            lambda _: found.append(os.environ["OMP_NUM_THREADS"]),
            TrainingConfig,
            {"digits": TrainingConfig()},
        )
        assert found.pop() == expected


def test_a_recipe_under_a_launcher_uses_every_core() -> None:
    program = (
        "from nacgen.training.command import *\n"
        "def main(config):\n"
        "    import torch\n"
        "    print('threads', torch.get_num_threads())\n"
        "run_recipe(main, TrainingConfig, {'digits': TrainingConfig()})\n"
    )
    launched = {"ACCELERATE_DYNAMO_MODE": "default", "OMP_NUM_THREADS": "1"}
    done = python("-c", program, env=launched)
    assert re.findall(r"threads (\d+)", done.stdout) == [str(count_cores())], done.stderr
