"""Start-up: the help of each recipe, and what importing nacgen adds to importing torch.

Each turn is a process of its own, from its start to its end; torch's own import is no part of what nacgen adds.
The last row is the first use of all public names, which loads the modules that they live in.
"""

import subprocess
import sys
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
        for recipe in recipes[: size.of(1, None, None)]
    ]


def imports(size: Size) -> list[Row]:
    """In a process that has imported torch already."""
    parts = {"import nacgen": ("pass", 0.2), "first use of all its public names": (NAMES, None)}
    return [
        Row(
            what=f"{what}, after import torch",
            ours=[float(run("-c", ADDED.format(use))) for _ in range(size.turns)],
            at_most=target,
        )
        for what, (use, target) in list(parts.items())[: size.of(1, None, None)]
    ]


PARTS = {"help": help_texts, "imports": imports}

if __name__ == "__main__":
    page.main(__doc__, __file__, PARTS, ("tyro", "accelerate", "huggingface-hub"))
