"""Start-up: the help of each recipe, mistakes, the first step of a GAN, and what importing nacgen adds to torch.

Each turn is a process of its own, from its start to its end; torch's own import is no part of what nacgen adds.
The last row is the first use of all public names, which loads the modules that they live in. Most of what a
training adds to torch is torch's own compiler, torch._dynamo: torch.optim (2.14) imports it when an optimizer is
made and at its first step, though nothing is compiled; accelerate does not.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import page
from timing import Row, Size, cost

ROOT = Path(__file__).parents[1]
ADDED = (
    "import time, torch; t = time.perf_counter(); import nacgen; {}; print(time.perf_counter() - t)"
)
NAMES = "[getattr(nacgen, name) for name in nacgen.__all__]"


def run(*arguments: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def help_texts(size: Size) -> list[Row]:
    """All recipes."""
    recipes = sorted(f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.py"))
    return [
        Row(
            what=f"python {recipe} --help",
            ours=[cost(lambda r=recipe: run(r, "--help")).wall for _ in range(size.turns)],
            at_most=1.0,
        )
        for recipe in recipes[: size.of(1, 3, None)]
    ]


FIRST_STEP = """
import os, runpy, sys
from nacgen.training import loop
class Bar:
    def __init__(self, *args, **options): pass
    def __enter__(self): return self
    def __exit__(self, *args): pass
    def update(self, count): os._exit(0)  # behind the first step
loop.tqdm = Bar
sys.argv = ["recipes/train_gan.py", "--preset", "smoke", "--run-dir", sys.argv[1]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
MISTAKES = {"a mistyped option": "--seeed", "a wrong path": "--config=nowhere.yaml"}


def mistakes(size: Size) -> list[Row]:
    """Of `train_gan.py`, each ended with a message."""

    def refused(flag: str) -> None:
        command = [sys.executable, "recipes/train_gan.py", flag, "--encoder", "runs/no/where"]
        ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        assert ended.returncode in (2, 5), ended.stderr

    return [
        Row(
            what=f"train_gan.py with {what}, processor time",
            ours=[cost(lambda f=flag: refused(f)).cpu for _ in range(size.turns)],
            at_most=1.0,
        )
        for what, flag in list(MISTAKES.items())[: size.of(1, None, None)]
    ]


def first_step(size: Size) -> list[Row]:
    """From the start of the process to the end of the first step of `train_gan.py --preset smoke`."""
    ours, theirs = [], []
    for _ in range(size.turns):
        with tempfile.TemporaryDirectory() as folder:
            ours.append(cost(lambda f=folder: run("-c", FIRST_STEP, f"{f}/run")).wall)
        theirs.append(cost(lambda: run("-c", "import torch")).wall)
    what = "start to the end of the first step of train_gan.py --preset smoke"
    return [Row(what=what, peer="import torch alone", ours=ours, theirs=theirs)]


def imports(size: Size) -> list[Row]:
    """In a process that has imported torch already."""
    parts = {"import nacgen": ("pass", 0.2), "first use of all its public names": (NAMES, None)}
    return [
        Row(
            what=f"{what}, after import torch",
            ours=[float(run("-c", ADDED.format(use))) for _ in range(size.of(1, 2, 7))],
            at_most=target,
        )
        for what, (use, target) in list(parts.items())[: size.of(1, None, None)]
    ]


PARTS = {
    "help": help_texts,
    "mistakes": mistakes,
    "first_step": first_step,
    "imports": imports,
}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("tyro", "accelerate", "huggingface-hub"))
