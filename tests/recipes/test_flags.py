"""The flags of every recipe, frozen: one more, or one fewer, is a decision that changes flags.txt, too."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path

FROZEN = Path(__file__).with_name("flags.txt")


def flags_of(config: type, prefix: str = "--") -> Iterator[str]:
    for name, kind in typing.get_type_hints(config).items():
        flag = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from flags_of(kind, f"{flag}.")
        else:
            yield flag


def all_flags() -> Iterator[str]:
    """Yield the flags of each configuration of each recipe, such as "train_gan GANConfig --seed"."""
    for path in sorted(Path("recipes").glob("[a-z]*.py")):
        recipe = importlib.import_module(f"recipes.{path.stem}")
        functions = inspect.getmembers(recipe, inspect.isfunction)
        configs = {function.__annotations__.get("config") for _, function in functions}
        for config in sorted((c for c in configs if hasattr(c, "preset")), key=str):
            for flag in sorted(flags_of(config)):
                yield f"{path.stem} {config.__name__} {flag}"


def test_flags_are_those_that_were_decided_on() -> None:
    assert list(all_flags()) == FROZEN.read_text().splitlines()
