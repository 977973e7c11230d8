"""Documents of strangers: ambiguous, endless, growing without bound."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from nacgen.errors import ConfigurationError
from nacgen.system.documents import parse_yaml, read_yaml, strict_json


def growing(line: str) -> str:
    """Return a mapping of which every line holds nine times the line before."""
    names = "abcdefghijkl"
    lines = [f"{b}: &{b} {line.format(','.join([f'*{a}'] * 9))}" for a, b in pairwise(names)]
    return "\n".join(["a: &a {x: 1}", *lines])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (growing("[{}]"), "line 5: more than 10,000 values"),
        (growing("{{<<: [{}]}}"), "more than 10,000 values, counted with what aliases stand for"),
        ("a: &a [*a]", "more than 10,000 values"),
        (f"a: [{'1,' * 11_000}]", "more than 10,000 values"),
        (f"a: {'[' * 100_000}", "it is nested too deeply"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(1_200)), "it is nested too deeply"),
        ("seed: 1\noptim:\n  rate: 1\n  rate: 2\n", "line 4: the key rate is given twice"),
        ('a: "\\e[31mred"', "line 1: a control character in a value"),
        ("a: 2024-99-99", "month must be in 1..12"),
        *(
            (f"a: {number}", "up to 20 decimal digits, without a zero in front, got")
            for number in ("010", "1:30", "0xff", "0b1", "!!int ''", "0x" + "f" * 5_000)
        ),
        ("a: !!timestamp x", "NoneType"),
        (f"a: {'9' * 5_000}", "in up to 20 decimal digits, .* got 9{24}; text stands in quotes"),
        ("a: 1\n---\na: 2", "line 2: but found another document"),
        ("a: \0", "special characters are not allowed"),
        ("? [a]\n: b", "line 1: found unhashable key"),
    ],
)
def test_yaml_that_is_ambiguous_or_endless_is_refused_at_once(text: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=message):
        parse_yaml(text.encode())
    assert time.monotonic() - start < 5


def test_aliases_and_merged_mappings_of_a_usual_size_are_read() -> None:
    text = "base: &base {x: 1, y: [1, 2]}\nother: {<<: *base, x: 2}\nthird: *base\n"
    base = {"x": 1, "y": [1, 2]}
    assert parse_yaml(text.encode()) == {"base": base, "other": base | {"x": 2}, "third": base}


def test_a_file_of_another_encoding_or_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("seed: 3\n".encode("utf-16"))
    with pytest.raises(ConfigurationError, match=f"{path} is not valid YAML: 'utf-8' codec"):
        read_yaml(path)
    path.write_bytes(b"#" + b" " * 1_000_000)
    with pytest.raises(ConfigurationError, match=f"but {path}: it is larger than 1,000,000 bytes"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ("NaN", "NaN is no JSON"),
        ("1e999", "1e999 is no JSON"),
        ("9" * 400, "an integer needs more than 64 bits: 9{24}$"),
        ("[" * 100_000, "it is nested too deeply"),
        ("[" * 200 + "]" * 200, "it is nested too deeply"),
        ('{"a":' * 200 + "1" + "}" * 200, "it is nested too deeply"),
    ],
)
def test_json_that_readers_understand_differently_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strict_json(text.encode())
