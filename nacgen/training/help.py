"""Help on one screen, whose texts are in the source: strings below fields, and comments above presets."""

import ast
import dataclasses
import importlib
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

# Options of topics that people change, shown beside every option that belongs to none.
OFTEN = (
    "data.image_size",
    "model.backbone",
    "optim.learning_rate",
    "discriminator.mode",
    "posterior.mode",
    "posterior.latent_dim",
    "network.kind",
    "alignment.stage",
    "alignment.weight",
    "score.extractor",
    "score.weights",
    "score.every",
    "run.num_threads",
)
ON_CPU = ("Any machine", "One CPU core", "2 CPU cores")  # first words above a preset
WIDEST_LABEL = (
    30  # columns of a flag with its default; behind a wider one the text has a line of its own
)


def short_help(config: Any, presets: Mapping[str, Any], recipe: ModuleType) -> str:
    """Return help on the options that people change, with the defaults of a preset, on one screen.

    Args:
        config: Configuration of the preset, whose values are the defaults.
        presets: Presets by name.
        recipe: Module of the recipe.
    """
    options = list(_options(config))
    often = [o for o in options if "." not in o.name or o.name in OFTEN]
    positional = [o for o in often if o.is_positional]
    shown = positional + [o for o in often if o not in positional and o.name != "preset"]
    name_width = max(width for o in shown if (width := len(o.label)) <= WIDEST_LABEL)
    words = "".join(f"[{o.name.upper()}] " for o in positional)
    first, *others = presets
    command = sys.argv[0].split()[1:2] if sys.argv[0].startswith("nacgen ") else []
    more = " ".join(["nacgen presets", *command])
    title, examples = inspect.cleandoc(recipe.__doc__ or "\n\n").split("\n\n")[:2]
    lines = [
        f"usage: {sys.argv[0]} {words}[--preset NAME] [options]",
        "",
        _wrapped(title),
        "",
        examples,
        "",
        _wrapped(f"presets: {', '.join([f'{first} (default)', *others])}. {more} tells of each."),
        "",
        f"options, with their values in preset {config.preset}:",
        *(_row(option, name_width) for option in shown),
        "",
    ]
    if not getattr(config, "is_one_process", False):
        module = f"nacgen.recipes.{Path(recipe.__file__ or '').stem}"
        lines.append(f"several processes or GPUs: accelerate launch -m {module} [options]")
    lines.append(f"all {len(options)} options in full: --help-all")
    return "\n".join(lines)


def preset_facts(recipe: ModuleType) -> dict[str, tuple[str, str]]:
    """Return by preset of a recipe its data and length, empty if it has none, and the comment above it."""
    comments, facts = _preset_comments(recipe), {}
    for name, config in recipe.PRESETS.items():
        length = getattr(config, "total_images", 0)
        data = f"{config.dataset}, {length:,} images seen" if length else ""
        facts[name] = (data, comments[name])
    return facts


def presets_by_hardware(recipes: Mapping[str, ModuleType]) -> Iterator[str]:
    """Yield the names of all presets by what they run on, one paragraph for each recipe by its command."""
    width = max(map(len, recipes)) + 4
    for title, on_cpu in (("Presets for two CPU cores or fewer:", True), ("For GPUs:", False)):
        yield title
        for command, recipe in recipes.items():
            facts = preset_facts(recipe).items()
            names = [name for name, (_, text) in facts if text.startswith(ON_CPU) == on_cpu]
            if names:
                yield _wrapped(", ".join(names), f"  {command:{width - 2}}", " " * width)
        yield ""


def preset_lines(recipe: ModuleType) -> Iterator[str]:
    """Yield the presets of a recipe, each with its data, its length and the comment above it."""
    for name, (data, comment) in preset_facts(recipe).items():
        text = f"{data}. {comment}" if data else comment
        yield _wrapped(text, f"  {name:24}", " " * 26)


@dataclasses.dataclass(frozen=True)
class _Option:
    """An option by its name with dots, its default, type hint and first sentence of its documentation."""

    name: str
    value: Any
    hint: Any
    text: str

    @property
    def is_positional(self) -> bool:
        return get_origin(self.hint) is Annotated

    @property
    def label(self) -> str:
        """Flag and default, such as `--seed 0`; a switch that is off has none."""
        name = f"--{self.name.replace('_', '-')}"
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        words = [str(value) for value in values if value is not None and value is not False]
        start = self.name.upper() if self.is_positional else name
        return " ".join([start, *words])


def _options(config: Any, prefix: str = "") -> Iterator[_Option]:
    """Yield the options of a configuration: those of topics behind those that belong to none."""
    hints, texts = get_type_hints(type(config), include_extras=True), _field_texts(type(config))
    topics = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:  # the default may depend on other options
            value = getattr(config, f"{field.name}_or_default", None)
        if dataclasses.is_dataclass(value):
            topics.append((value, f"{prefix}{field.name}."))
        else:
            yield _Option(prefix + field.name, value, hints[field.name], texts.get(field.name, ""))
    for value, name in topics:
        yield from _options(value, name)


def _row(option: _Option, name_width: int) -> str:
    """Return an option in three lines or fewer: name, default, choices, and the clauses of its text that fit."""
    text, choices = option.text, _choices(option.hint)
    if choices and not all(choice in text for choice in choices):
        text = f"{' | '.join(choices)}: {text[:1].lower()}{text[1:]}"
    wrap = partial(textwrap.wrap, width=_width() - name_width - 4, break_on_hyphens=False)
    clauses = [text[: mark.start()] for mark in re.finditer("; |$", text)]
    fitting = (clause for n in (1, 2, 3) for clause in reversed(clauses) if len(wrap(clause)) <= n)
    lines = wrap(next(fitting, text), max_lines=3, placeholder=" ...")
    if len(option.label) > name_width:
        lines.insert(0, "")
    indent = f"\n{' ' * (name_width + 4)}"
    return indent.join([f"  {option.label:{name_width}}  {lines[0]}".rstrip(), *lines[1:]])


def _choices(hint: Any) -> tuple[str, ...]:
    """Return the names among which a type hint lets one choose, none if it is open."""
    parts = [hint, *get_args(hint)]
    names = next((get_args(part) for part in parts if get_origin(part) is Literal), ())
    return tuple(map(str, names))


def _field_texts(config_class: type) -> dict[str, str]:
    """Return by field the first sentence of the string below it, of a class and those it inherits from."""
    texts: dict[str, str] = {}
    for owner in reversed([c for c in config_class.__mro__ if dataclasses.is_dataclass(c)]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(node, ast.ClassDef)
        for field, below in zip(node.body, node.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(text))):
                    texts[name] = " ".join(text.split()).partition(". ")[0].rstrip(".")
    return texts


def _preset_comments(module: ModuleType) -> dict[str, str]:
    """Return the comment above each preset, from the module in which the recipe's presets stand."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        match node:
            case ast.ImportFrom(module=str(name), names=names):
                if any(alias.name == "PRESETS" for alias in names):
                    return _preset_comments(importlib.import_module(name))
            case ast.Assign(targets=[ast.Name("PRESETS")], value=ast.Dict(keys=keys)):
                return {
                    key.value: _comment_above(lines, key.lineno - 1)
                    for key in keys
                    if isinstance(key, ast.Constant) and isinstance(key.value, str)
                }
    raise AssertionError(f"{module.__name__} has no PRESETS")


def _comment_above(lines: list[str], number: int) -> str:
    """Return the comment that ends above a line, in one line."""
    start = number
    while lines[start - 1].strip().startswith("#"):
        start -= 1
    return " ".join(line.strip(" #") for line in lines[start:number])


def _wrapped(text: str, start: str = "", indent: str = "") -> str:
    """Wrap a text at the terminal's width, with a start of the first line and an indent of the others."""
    return textwrap.fill(
        text, _width(), initial_indent=start, subsequent_indent=indent, break_on_hyphens=False
    )


def _width() -> int:
    """Return the columns of the terminal, within bounds that leave room for words and can be read."""
    return max(60, min(100, shutil.get_terminal_size((100, 40)).columns))
