"""A run in strange surroundings: locale, time zone, clock, paths, no home, no folder under its feet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, time
if os.environ.pop("CLOCK", ""):
    real, steps = time.time, iter(range(10**9))
    time.time = lambda: real() - 86400 * next(steps)
from nacgen.training.command import run_recipe
from recipes.train_gan import PRESETS, GANConfig, main
run_recipe(main, GANConfig, PRESETS)
"""


def train(folder: Path, run: Path, **environment: str | None) -> None:
    changed = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--preset", "smoke", "--run-dir", str(run)],
        cwd=folder,
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:].decode(errors="replace")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert os.fsencode(summary["run_dir"]) == os.fsencode(run)  # in a locale of ASCII, byte by byte
    assert (run / "report.html").is_file()


@pytest.mark.battery
def test_locale_time_zone_home_and_a_path_of_all_kinds(tmp_path: Path) -> None:
    run = tmp_path / "a run\nof ünïts" / "İı 'quoted'"
    train(tmp_path, run, LC_ALL="tr_TR.UTF-8", TZ="Pacific/Kiritimati", HOME=None, PYTHONUTF8="0")


@pytest.mark.battery
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "tr_TR.UTF-8"},
        {"TZ": "America/St_Johns"},
        {"HOME": None},
        {"HOME": "/nowhere"},
        {"CLOCK": "1"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_each_alone(environment: dict[str, str | None], tmp_path: Path) -> None:
    train(tmp_path, tmp_path / "rün", **environment)
