"""The command `nacgen`: it knows every recipe and preset, and answers mistakes without loading torch."""

import importlib
import json
import re
import threading
from pathlib import Path

import pytest

from nacgen.cli import OTHERS, RECIPES, main
from nacgen.training import command as recipe_command
from nacgen.training.help import _preset_comments
from tests.launch import ROOT, python

LINES_OF_SCREEN = 40


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[object, str, str]:
    """The exit code of a command line, its stdout and its stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["nacgen", *words])
        patch.setattr(threading, "excepthook", threading.excepthook)
        patch.setattr(recipe_command, "stop_with_launcher", lambda: None)
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_recipe_has_a_command() -> None:
    assert sorted(RECIPES.values()) == sorted(p.stem for p in (ROOT / "recipes").glob("*.py"))


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0), (["help"], 0)])
def test_the_overview_names_every_command(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found, text, error = run(capsys, *words)
    assert (found, error) == (code, "")
    assert len(text.splitlines()) <= LINES_OF_SCREEN / 2
    assert re.findall(r"^  (\S+) +[A-Z].*\.$", text, re.MULTILINE) == [*RECIPES, *OTHERS]


def test_an_unknown_command_is_told_which_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, error = run(capsys, "trian-gan", "--seed", "1")
    assert (code, text) == (2, "")
    assert error == (
        f"error: command must be one of {', '.join([*RECIPES, *OTHERS])}, got 'trian-gan'. "
        "Did you mean train-gan?\n"
    )
    assert "Type nacgen for what each does." in run(capsys, "x\x1b[31m")[2]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("sample runs/mine", "--run-dir runs/mine"),
        ("convert net.pth", "--input net.pth"),
        ("probe runs/a/encoder --seed 1", "--encoders runs/a/encoder"),
        ("compare random nac", "--arms random"),
        ("train-gan photos", "--preset folder --data-dir photos"),
        ("train-classifier photos", "--data-dir photos"),
        ("pretrain folder", "--preset folder"),
        ("train-flow mnist", "--dataset mnist"),
    ],
)
def test_a_word_without_a_flag_is_told_which_was_meant(
    line: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, word, *flags = line.split()
    code, _, error = run(capsys, command, word, *flags)
    assert code == 2
    assert error == f"error: options begin with --, got {word!r}. Did you mean {meant}?\n"


@pytest.mark.parametrize("command", RECIPES)
def test_help_fits_a_screen_and_names_presets_and_options_with_defaults(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    recipe = importlib.import_module(f"recipes.{RECIPES[command]}")
    code, text, error = run(capsys, command, "--help")
    assert (code, error) == (0, "")
    assert text.startswith(f"usage: nacgen {command} ")
    assert f"\n    nacgen {command}" in text  # an example
    assert len(text.splitlines()) <= LINES_OF_SCREEN
    assert max(map(len, text.splitlines())) <= 100
    first, *others = recipe.PRESETS
    listed = " ".join([f"{first} (default)", *others]).replace(" ", ", ").replace(", (", " (")
    assert f"presets: {listed}. nacgen presets {command} tells of each." in " ".join(text.split())
    assert ("accelerate launch -m nacgen.recipes." in text) != (
        command in ("convert", "compare", "sample")
    )
    for columns, more in (("1000", 0), ("100", 0), ("80", 10), ("60", 30), ("20", 30)):
        monkeypatch.setenv("COLUMNS", columns)
        text = run(capsys, command, "--help")[1]
        assert len(text.splitlines()) <= LINES_OF_SCREEN + more
        assert more == 30 or "..." not in text  # whole clauses


def test_help_shows_the_values_of_the_preset(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, text, _ = run(capsys, "train-gan", "--preset", "cifar10", "--help")
    assert "options, with their values in preset cifar10:" in text
    assert re.search(r"^  --total-images 1536000  +Length of training", text, re.MULTILINE)
    assert re.search(r"^  --discriminator\.mode init  +init \| partial \| frozen: ", text, re.M)
    assert re.search(r"^  --seed 0  +Seed of all random numbers$", text, re.M)
    assert re.search(r"^  --run\.num-threads +CPU threads of each process$", text, re.M)
    assert re.search(r"^  --encoder  +Folder", text, re.M), "only the digits have a default"
    assert "--optim.beta2" not in text
    digits = run(capsys, "train-gan", "--help")[1]
    assert "\n  --encoder checkpoints/digits-nac\n        " in digits, "a wide label has its line"
    assert "checkpoints" not in run(capsys, "train-vae", "--preset", "cifar10", "--help")[1]
    everything = run(capsys, "train-gan", "--help-all")[1]
    assert "--optim.beta2" in everything
    assert "(default: digits)" in everything


@pytest.mark.parametrize("command", RECIPES)
def test_presets_tell_hardware_time_and_what_to_expect(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = importlib.import_module(f"recipes.{RECIPES[command]}")
    comments = _preset_comments(recipe)
    assert list(comments) == list(recipe.PRESETS)
    for name, comment in comments.items():
        assert re.match(
            r"(Any machine|2 CPU cores|One CPU core|One (large )?GPU|Several GPUs).*; .+", comment
        ), name
    code, text, _ = run(capsys, "presets", command)
    assert code == 0
    listed = " ".join(text.split())
    for name, comment in comments.items():
        assert f" {name} " in listed
        assert comment in listed
    for preset in recipe.PRESETS.values():
        if getattr(preset, "dataset", None) and getattr(preset, "total_images", None):
            assert f" {preset.dataset}, {preset.total_images:,} images seen. " in listed
    assert re.findall("^nacgen (.+)$", text, re.MULTILINE) == [command]


def test_presets_of_all_recipes_stand_by_hardware_on_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, text, _ = run(capsys, "presets")
    assert code == 0
    assert len(text.splitlines()) <= LINES_OF_SCREEN
    on_cpu, on_gpu = (
        {command: names.replace("\n", "").replace(" ", "").split(",") for command, names in found}
        for found in (
            re.findall(r"^  (\S+) +(\S.*(?:\n {6,}.*)*)$", part, re.MULTILINE)
            for part in text.split("\nFor GPUs:\n")
        )
    )
    assert text.startswith("Presets for two CPU cores or fewer:\n")
    assert on_cpu["train-gan"] == ["digits", "cifar10-small", "fashion-mnist", "smoke"]
    assert "fashion-mnist" in on_cpu["train-classifier"]  # on one core
    assert "imagenet-resnet50-queue" in on_gpu["pretrain"]
    assert "sample" not in on_gpu
    for command, name in RECIPES.items():
        presets = importlib.import_module(f"recipes.{name}").PRESETS
        assert {*on_cpu[command], *on_gpu.get(command, [])} == set(presets)
    assert text.endswith("nacgen presets COMMAND, as in nacgen presets train-gan.\n")


def test_presets_of_an_unknown_recipe_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "presets", "train_gan")
    assert code == 2
    assert "got 'train_gan'. Did you mean train-gan?" in error


ANSWERS = {
    "": 2,
    "--version": 0,
    "version": 0,
    "presets": 0,
    "no-such-command": 2,
    **{f"{command} --help": 0 for command in RECIPES},
    **{f"{command} --help-all": 0 for command in RECIPES},
    "evaluate stats --help": 0,
    "train-gan --preset digts": 2,
    "train-gan --seeed 1": 2,
    "train-vae --batch-size 7": 2,
    "pretrain --config nowhere.yaml": 2,
    "sample --run-dir nowhere": 5,
    "evaluate nowhere": 4,
}


def test_help_and_mistakes_are_answered_without_torch() -> None:
    """What makes them come within a second; torch alone takes longer."""
    code = """
import contextlib, io, json, sys
from nacgen.cli import main
found = {}
for line in sys.argv[1:]:
    sys.argv, said = ["nacgen", *line.split()], io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            main()
        code = 0
    except SystemExit as end:
        code = end.code
    found[line] = [code, said.getvalue()]
heavy = {"accelerate", "matplotlib", "numpy", "PIL", "safetensors", "scipy", "torch"}
print(json.dumps([found, sorted(heavy & set(sys.modules))]))
"""
    done = python("-c", code, *ANSWERS)
    found, loaded = json.loads(done.stdout)
    assert loaded == []
    assert {line: code for line, (code, _) in found.items()} == ANSWERS
    assert all(said for _, said in found.values())
    assert "usage: nacgen evaluate stats [REFERENCE] [OUTPUT]" in found["evaluate stats --help"][1]


def test_a_checkout_has_the_recipes_as_modules_of_the_package() -> None:
    recipe = importlib.import_module("nacgen.recipes.train_gan")
    assert recipe.__file__
    assert Path(recipe.__file__) == ROOT / "recipes" / "train_gan.py"
