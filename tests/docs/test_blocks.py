"""Code blocks of the README, the pages and the models' cards do what they say.

Every block runs: Python in the default tests, the blocks of a page one after another; commands in the slow ones,
with small budgets, while the default tests check their options. A comment above a block says what is different:

    <!-- slow: trains an encoder -->      runs in the slow tests
    <!-- not run: needs a GPU -->         does not run; options of commands are still checked
"""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nacgen.cli import RECIPES
from nacgen.data.datasets import load_dataset
from nacgen.data.pixels import to_float
from nacgen.training.config import parse
from tests.docs.pages import PAGES, ROOT, Block, blocks, make_folder

PYTHON, SHELL = blocks("python"), blocks("bash")
del PYTHON["docs/alignment.md"]  # tests/examples runs it and compares its table
TRAINING = "--run.log-every 16 --run.checkpoint-every 32 --run.num-threads 1 --run.tracker none"
SCORING = "--score.every 32 --score.num-samples 16"
BUDGETS = {  # flags that commands end with when pages are tried
    "pretrain": f"--total-images 32 --batch-size 16 --probe-every 32 --optim.warmup-images 16 {TRAINING}"
    " --model.backbone tiny",
    "train-gan": f"--total-images 32 --batch-size 16 {SCORING} {TRAINING}",
    "train-vae": f"--total-images 32 --batch-size 16 {SCORING} {TRAINING}",
    "train-classifier": f"--total-images 32 --batch-size 16 {TRAINING}",
    "train-flow": f"--total-images 32 --batch-size 16 {SCORING} {TRAINING}",
    "compare": "--preset smoke --seeds 0",
}
# Commands that only write down their words, each command in one line.
RECORDING = """
record() { printf '%s\\037' "$@" >> "$RECORD"; printf '\\036' >> "$RECORD"; }
for name in nacgen python accelerate torchrun pip pytest sphinx-build git jupytext source pre-commit; do
    eval "$name() { record $name \\"\\$@\\"; }"
done
"""
RUNNING = """
nacgen() { "$PYTHON" -m nacgen "$@" $(budget "$1"); }
python() { "$PYTHON" "$@"; }
accelerate() { "$PYTHON" -m accelerate.commands.accelerate_cli "$@" $(budget train-gan); }
torchrun() { "$PYTHON" -m torch.distributed.run "$@" $(budget train-gan); }
pip() { true; }
"""


def run_python(name: str, chosen: list[Block], folder: Path) -> None:
    torch.manual_seed(0)
    dataset = load_dataset("digits")
    images = to_float(dataset.read(torch.arange(32)))
    known: dict[str, Any] = {"__name__": "page", "images": images, "dataset": dataset}
    for block in chosen:
        text = block.text.replace("path/to/this/folder", str(Path(name).parent))
        code = "\n" * (block.line - 1) + text  # errors name the line of the page
        exec(compile(code, ROOT / name, "exec"), known)


def run_shell(preamble: str, chosen: list[Block], folder: Path, **variables: str) -> None:
    script = "\n".join(["set -eu", preamble, *(block.text for block in chosen)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, **variables}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-1000:]}"


def check_options(words: list[str]) -> bool:
    """Parse the options of a recipe's command line as the recipe does; say if there was one."""
    if words[0] == "nacgen":
        recipe, flags = RECIPES.get(words[1], ""), words[2:]
    else:
        matches = [re.fullmatch(r"(?:nacgen\.)?recipes[./](\w+?)(?:\.py)?", w) for w in words]
        places = [i for i, match in enumerate(matches) if match]
        recipe = matches[places[0]][1] if places else ""  # type: ignore[index]
        flags = words[places[0] + 1 :] if places else []
    if not recipe:
        return False
    module = importlib.import_module(f"nacgen.recipes.{recipe}")
    main, presets = module.__dict__.get("main"), module.PRESETS
    if recipe == "evaluate_images":
        main = module.score
        if flags[:1] in (["stats"], ["selfcheck"]):
            main = getattr(module, flags[0])
            config = inspect.get_annotations(main)["config"]
            presets, flags = {"fid": config()}, flags[1:]
    if "--config" in flags:  # a file that an earlier command would have written
        del flags[flags.index("--config") : flags.index("--config") + 2]
    if not {"--help", "--help-all"} & {*flags}:
        parse(inspect.get_annotations(main)["config"], presets, flags)
    return True


@pytest.mark.parametrize("name", PYTHON)
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_folder(tmp_path))
    run_python(name, [block for block in PYTHON[name] if not block.mark], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, found in PYTHON.items() if any(b.mark == "slow" for b in found)]
)
def test_slow_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_folder(tmp_path))
    run_python(name, [block for block in PYTHON[name] if block.mark != "not run"], tmp_path)


@pytest.mark.parametrize("name", SHELL)
def test_commands_have_options_that_exist(name: str, tmp_path: Path) -> None:
    record = make_folder(tmp_path) / "record"
    record.touch()
    run_shell(RECORDING, SHELL[name], tmp_path, RECORD=str(record))
    for line in record.read_text().split("\036")[:-1]:
        words = line.split("\037")[:-1]
        try:
            check_options(words)
        except SystemExit as ended:
            pytest.fail(f"{name}: {' '.join(words)} ends with exit code {ended.code}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, found in SHELL.items() if any(b.mark != "not run" for b in found)]
)
def test_commands_run(name: str, tmp_path: Path) -> None:
    cases = "\n".join(f"{command}) echo {flags};;" for command, flags in BUDGETS.items())
    preamble = f'budget() {{ case "$1" in\n{cases}\nesac; }}\n{RUNNING}'
    chosen = [block for block in SHELL[name] if block.mark != "not run"]
    run_shell(preamble, chosen, make_folder(tmp_path))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_files_lead_to_files(path: Path) -> None:
    """Sphinx checks the links of the site; GitHub's readers follow these."""
    text = re.sub(r"```.*?```|`[^`\n]+`", "", path.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target = (link[0] or link[1]).partition("#")[0]
        if target and not target.startswith(("http", "mailto:", "generated/")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
