"""Reading JSON and YAML from anywhere, without ambiguities and within bounds; flattening nested options."""

import errno
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import yaml

from nacgen.errors import ConfigurationError, StorageError
from nacgen.system.files import read_regular

LARGEST_YAML = 1_000_000  # bytes
MOST_NODES = 10_000  # of a YAML file, with what aliases stand for
DEEPEST = 100  # mappings and lists within each other, of JSON
LARGEST_WHOLE = 2**63  # an integer of torch and of other readers is smaller


def strict_json(text: bytes, allow_nan: bool = False) -> Any:
    """Parse JSON in UTF-8 without its ambiguities: duplicate keys, NaN, infinity, huge integers, endless nesting.

    The caller limits its length. Anything else raises a `ValueError`.
    """
    finite: Any = {} if allow_nan else {"parse_constant": _no_constant, "parse_float": _finite}
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_int=_whole, **finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        level = list(chain.from_iterable(v.values() if isinstance(v, dict) else v for v in level))
        if (depth := depth + 1) > DEEPEST:
            raise ValueError("it is nested too deeply")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_constant(text)


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= LARGEST_WHOLE:
        raise ValueError(f"an integer needs more than 64 bits: {text[:24]}")
    return int(text)


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses a key given twice, control characters, and aliases that grow without bound."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias, start = self.check_event(yaml.AliasEvent), self._num_nodes
        node = super().compose_node(parent, index)
        self._num_nodes += self._sizes.get(id(node), MOST_NODES) if is_alias else 1
        self._sizes.setdefault(id(node), self._num_nodes - start)
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        counts = Counter(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
        fault = ""
        if self._num_nodes > MOST_NODES:
            fault = f"more than {MOST_NODES:,} values, counted with what aliases stand for"
        elif isinstance(node, yaml.ScalarNode) and any(map(_is_control, node.value)):
            fault = "a control character in a value"
        elif twice := [key for key, _ in pairs if counts[str(key.value)] > 1]:
            mark, fault = twice[-1].start_mark, f"the key {twice[-1].value} is given twice"
        if fault:
            raise yaml.composer.ComposerError(None, None, fault, mark)
        return node

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """Read an integer as the flags do; YAML would read `010` as 8 and `1:30` as 90."""
        if not re.fullmatch(r"[-+]?[0-9_]{1,20}", node.value) or re.match(r"[-+]?0.", node.value):
            raise ValueError(
                "a whole number is written in up to 20 decimal digits, without a zero in front, got "
                f"{node.value:.24}; text stands in quotes"
            )
        return int(node.value.replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)


def _is_control(character: str) -> bool:
    return not character.isprintable() and ord(character) < 160 and character not in "\n\t"


def parse_yaml(content: bytes) -> Any:
    """Parse one YAML document in UTF-8, or raise a `ValueError` that names the line."""
    try:
        return _Loader(content.decode("utf-8-sig")).get_single_data()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    # Python's own errors come from scalars that look like a date or a number, or are tagged so.
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping, or nothing; anything else is a `ConfigurationError`."""
    try:
        values = parse_yaml(read_regular(path, LARGEST_YAML))
    except OSError as error:
        if error.errno == errno.EIO:
            raise StorageError(f"{path} cannot be read ({error}). Mend the disk.") from error
        raise ConfigurationError(f"--config must name a YAML file, but {path}: {error}.") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}. Correct the file.") from error
    if values is not None and not isinstance(values, dict):
        raise ConfigurationError(
            f"{path} must hold a mapping of options, got a {type(values).__name__}. "
            "Start from the config.yaml of a run."
        )
    return values or {}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one, with dots between the keys, in the same order."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        inner = flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
        if twice := flat.keys() & inner.keys():
            raise ConfigurationError(
                f"an option has one value, but {min(twice)} is given twice. Leave one out."
            )
        flat |= inner
    return flat
