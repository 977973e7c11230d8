"""The command `nacgen`: the recipes under one name, each run in this process.

Only the recipe that runs is imported, and torch not before it has read its options.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import metadata
from platform import python_version
from types import ModuleType

from nacgen.errors import ConfigurationError
from nacgen.system.terminal import guarded_streams, printable
from nacgen.version import __version__

# Recipes by command, in the order in which they are listed.
RECIPES = {
    "pretrain": "pretrain_nac",
    "probe": "probe_encoder",
    "convert": "convert_encoder",
    "train-gan": "train_gan",
    "train-vae": "train_vae",
    "train-flow": "train_flow",
    "train-classifier": "train_classifier",
    "compare": "compare",
    "sample": "sample",
    "evaluate": "evaluate_images",
}
OTHERS = {
    "presets": "List all presets by hardware, or those of a named recipe: data, time, what to expect.",
    "version": "Print the versions of nacgen and of what it computes with.",
}


def main() -> None:
    """Run the command that the command line names.

    Raises:
        SystemExit: 2 without a command or with an unknown one; else with the code of the recipe, see
            `nacgen.training.command.run_recipe`.
    """
    command, *arguments = sys.argv[1:] or [""]
    if command in RECIPES:
        sys.argv = [f"nacgen {command}", *arguments]
        _recipe(command).run()
        return
    with guarded_streams():
        try:
            for line in _answer(command, arguments):
                print(line)
        except ConfigurationError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            sys.exit(error.exit_code)
    if not command:
        sys.exit(ConfigurationError.exit_code)


def _recipe(command: str) -> ModuleType:
    return importlib.import_module(f"nacgen.recipes.{RECIPES[command]}")


def _answer(command: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the lines that a command prints which is no recipe."""
    if command in ("", "-h", "--help", "help"):
        yield from _overview()
    elif command in ("version", "--version"):
        packages = [f"{name} {metadata.version(name)}" for name in ("torch", "accelerate")]
        yield f"nacgen {__version__} (Python {python_version()}, {', '.join(packages)})"
    elif command == "presets":
        for name in arguments:
            _check("recipe", name, list(RECIPES))
            yield from _presets(name)
        if not arguments:
            yield from _all_presets()
    else:
        _check("command", command, [*RECIPES, *OTHERS])


def _overview() -> Iterator[str]:
    yield "usage: nacgen COMMAND [options]\n"
    yield "Pretrain an encoder with Neural Activation Coding, put it into a generative model, compare.\n"
    for command in RECIPES:
        yield f"  {command:18}{(_recipe(command).__doc__ or ' ').splitlines()[0]}"
    for command, text in OTHERS.items():
        yield f"  {command:18}{text}"
    yield "\nEvery recipe runs without options on the embedded digits: nacgen train-gan takes two minutes."
    yield "nacgen COMMAND --help lists the options of one."


def _all_presets() -> Iterator[str]:
    from nacgen.training.help import presets_by_hardware

    yield from presets_by_hardware({command: _recipe(command) for command in RECIPES})
    yield "What each needs and gives: nacgen presets COMMAND, as in nacgen presets train-gan."


def _presets(command: str) -> Iterator[str]:
    """Yield a recipe's presets, each with what its options and the comment above it say."""
    from nacgen.training.help import preset_lines

    yield f"nacgen {command}"
    yield from preset_lines(_recipe(command))
    yield ""


def _check(what: str, name: str, known: Sequence[str]) -> None:
    """Raise a `ConfigurationError` for an unknown name, with the one that was probably meant."""
    if name in known:
        return
    near = get_close_matches(name, known, n=1)
    advice = f"Did you mean {near[0]}?" if near else "Type nacgen for what each does."
    raise ConfigurationError(f"{what} must be one of {', '.join(known)}, got {name!r}. {advice}")
