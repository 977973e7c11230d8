"""Reading JSON and YAML strictly, and flattening nested options."""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from nacgen.errors import ConfigurationError, StorageError


def strict_json(text: bytes) -> Any:
    """Parse JSON in UTF-8 without its ambiguities: duplicate keys, NaN, infinity, and endless nesting.

    The caller limits its length. Anything else raises a `ValueError`.
    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, or nothing.

    Raises:
        ConfigurationError: If there is no such file, or if it holds something else.
        StorageError: If the disk fails.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        if error.errno == errno.EIO:
            raise StorageError(f"{path} cannot be read ({error}). Mend the disk.") from error
        raise ConfigurationError(f"--config must name a YAML file, but {path}: {error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{path} must hold a mapping of options, got a {type(values).__name__}. "
            "Start from the config.yaml of a run."
        )
    return values


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one, with dots between the keys, in the same order."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
