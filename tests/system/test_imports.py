import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import python

ROOT = Path(__file__).parents[2]
IMPORT_ALL = """
import importlib, os, pkgutil, sys
for name in ("fcntl", "resource", "termios", "pwd"):  # Windows has none of them
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
    delattr(os, name)
import nacgen
names = [info.name for info in pkgutil.walk_packages(nacgen.__path__, "nacgen.")]
for name in [*names, *sys.argv[1:]]:
    importlib.import_module(name)
from nacgen.system.files import open_regular
open_regular("pyproject.toml").close()
"""


def test_everything_imports_where_the_system_is_not_unix(tmp_path: Path) -> None:
    recipes = [path.stem for path in (ROOT / "recipes").glob("*.py")]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'recipes'}", "PATH": "", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", IMPORT_ALL, *recipes]
    ended = subprocess.run(
        command, check=False, env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def test_an_encoder_loads_without_compiler_pictures_or_trackers() -> None:
    code = """
import sys, nacgen
nacgen.NACEncoder.from_pretrained("checkpoints/digits-nac")
slow = ("torch._dynamo", "matplotlib", "tensorboard", "timm", "scipy", "torchvision")
print([name for name in slow if name in sys.modules])
"""
    ended = python("-c", code)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_a_comparison_is_reported_without_torch() -> None:
    code = """
import sys, nacgen.comparison.comparison_report
print([name for name in ("torch", "accelerate", "scipy.stats") if name in sys.modules])
"""
    ended = python("-c", code)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_matplotlib_waits_until_something_is_drawn() -> None:
    code = """
import sys
from nacgen import metrics
from nacgen.gan import build, evaluation
from nacgen.reporting import run_report
from nacgen.training import data_record, loop, run
print([name for name in ("matplotlib", "tensorboard", "timm", "scipy") if name in sys.modules])
"""
    ended = python("-c", code)
    assert ended.stdout.strip() == "[]", ended.stderr


@pytest.mark.slow
def test_a_gan_trains_and_is_scored_without_matplotlib(tmp_path: Path) -> None:
    code = """
import runpy, sys
from nacgen.training import loop
evaluate = loop._Session.evaluate
def watched(*args):
    result = evaluate(*args)
    print("loaded:", [name for name in ("matplotlib", "timm", "scipy") if name in sys.modules])
    return result
loop._Session.evaluate = watched
sys.argv = ["recipes/train_gan.py", "--preset", "smoke", "--run-dir", sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    ended = python("-c", code, tmp_path / "run")
    lines = [line for line in ended.stdout.splitlines() if line.startswith("loaded:")]
    assert lines == ["loaded: []"] * 2, ended.stderr
