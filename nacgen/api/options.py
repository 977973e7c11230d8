"""From keyword arguments to the configuration of a command, by the parser that reads its flags."""

import contextlib
import importlib
import inspect
import io
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nacgen.api.part_content import UntoldContentError, content_of
from nacgen.data.given import given_dataset
from nacgen.data.options import GIVEN, SPLITS
from nacgen.data.provenance import dataset_fingerprint
from nacgen.errors import ArgumentError, ConfigurationError
from nacgen.metrics.extractors.base import FeatureExtractor, digest_tensors
from nacgen.models.encoder import NACEncoder
from nacgen.models.folder import CONFIG_FILE
from nacgen.system.calls import near_match
from nacgen.system.documents import flatten
from nacgen.system.own_parts import own_name
from nacgen.system.terminal import warn
from nacgen.training.config import parse, to_dict
from nacgen.training.fingerprints import digest
from nacgen.training.old_options import as_flags

# The frame of the parser's message, and its advice for a terminal.
FRAME = re.compile(
    "[\N{BOX DRAWINGS LIGHT HORIZONTAL}-\N{BOX DRAWINGS LIGHT ARC UP AND RIGHT}]|-{4,}|For full helptext.*",
    re.DOTALL,
)


def recipe_of(name: str) -> ModuleType:
    """Import a recipe, wherever its file lies."""
    return importlib.import_module(f"nacgen.recipes.{name}")


def options_of(recipe: str) -> dict[str, Any]:
    """Return the options of a recipe by dotted name, with their default values."""
    return flatten(to_dict(recipe_of(recipe).run.args[1]())) | {"fresh": False}


def configure(
    recipe: str,
    preset: str | None,
    options: Mapping[str, Any],
    function: Callable[..., Any] | None = None,
) -> Any:
    """Make the configuration of a recipe from keywords: dotted names, or mappings for topics.

    `function` is the one that was called, for messages.

    Raises:
        ArgumentError: An option is unknown.
        ConfigurationError: An option has a value of a wrong type, or contradicts another.
    """
    _, config_class, presets = recipe_of(recipe).run.args
    label, own = recipe, list[str]()
    if function is not None:
        label, own = function.__name__, [*inspect.signature(function).parameters][:-1]
    known, values = options_of(recipe), flatten(options)
    for name in values:
        if name not in known:
            raise ArgumentError(
                f"nacgen.{label} takes {', '.join(own)} and the options of its command, by dotted name or as a "
                f"mapping for a topic, got {name!r}. {near_match(name, [*own, *known])}"
            )
    plain = {name: list(v) if isinstance(v, tuple | range) else v for name, v in values.items()}
    named = [] if preset is None else ["--preset", preset]  # a configuration file may name one
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return parse(config_class, presets, [*named, *as_flags(plain)])
    except SystemExit as error:
        told = " ".join(FRAME.sub(" ", said.getvalue()).split())
        given = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise ConfigurationError(
            f"options must have types and values that their command takes, got {given}: {told:.500}"
        ) from error


def images_options(
    images: object, held_out: object, preset: str | None, recipe: str, options: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """Put a name, a folder or images in hand into flat options; return the preset, and data sets by part."""
    presets = recipe_of(recipe).run.args[2]
    if images is None:
        return preset, {}
    name = images if isinstance(images, str) and images in SPLITS else "folder"
    places = ("dataset", "data_dir") if name == "folder" else ("dataset",)
    if twice := [place for place in places if place in options]:
        raise ArgumentError(
            f"images come from one place, got them as images and by {twice[0]}. Leave one out."
        )
    if name != "folder":
        options["dataset"] = name
        return preset or (name if name in presets else None), {}
    chosen = preset or ("folder" if "folder" in presets else None)
    if isinstance(images, str | os.PathLike):
        options |= {"dataset": "folder", "data_dir": str(images)}
        return chosen, {}
    size = options.get("data.image_size")
    is_asked = size is not None
    if size is None and chosen is not None and chosen in presets:
        size = presets[chosen].data.image_size
    train = given_dataset(images, size, enlarge=is_asked)
    size = train.image_size
    parts = {"train": train}
    if held_out is not None:
        parts["held_out"] = given_dataset(held_out, size, "test", enlarge=True)
    prints = [dataset_fingerprint(part) for part in parts.values()]
    # The content in place of a path: a finished run is known again only by the same images.
    content = f"sha256:{digest(prints)}"
    options |= {"dataset": GIVEN, "data_dir": content, "data.image_size": size}
    return chosen, parts


def encoder_option(encoder: object, run_dir: object) -> str:
    """Return the path of an encoder; one in hand is saved beside the runs, in a folder named after its content."""
    if isinstance(encoder, str | os.PathLike):
        return str(encoder)
    if not isinstance(encoder, NACEncoder):
        raise ConfigurationError(
            f"encoder must be a nacgen.NACEncoder, or a folder or Hub id of one, got {encoder!r:.100}. Convert "
            "other networks' weights with nacgen convert."
        )
    content = digest([encoder.configuration(), digest_tensors(encoder.state_dict())])
    runs = Path("runs") if run_dir is None else Path(str(run_dir)).parent
    folder = runs / "encoders" / content[:16]
    if not (folder / CONFIG_FILE).is_file():  # which is written after the weights
        encoder.save_pretrained(folder)
    return str(folder)


def part_option(part: Any) -> str:
    """Return the name of a part of the user's own; `package.module:function` is its own name."""
    if isinstance(part, str):
        return part
    if isinstance(part, FeatureExtractor):
        return own_name(type(part), part.fingerprint)
    if not callable(part):
        raise ConfigurationError(
            f"a part of your own is a module, a function or package.module:function, got {part!r:.100}."
        )
    try:
        return own_name(part, content_of(part))
    except UntoldContentError as error:
        name = own_name(part, secrets.token_hex())  # which no other call has
        warn(
            f"the content of {name} cannot be told: it refers to {error}. A call with it never goes on with a run "
            "that is there, nor returns it, but needs fresh=True or another run_dir. Make what it refers to "
            "inside of it, or name it package.module:function."
        )
        return name


def start_of(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return digests of the weights that modules start from, by part."""
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    return {name: digest_tensors(_floats(module)) for name, module in modules.items()}


def _floats(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: x.float()
        for name, x in module.state_dict().items()
        if not is_lazy(x) and x.is_floating_point()
    }
