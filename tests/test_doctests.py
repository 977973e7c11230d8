"""Examples in the docstrings of nacgen's modules run and print what they show."""

import ast
import doctest
import importlib
import pkgutil
import tempfile
from pathlib import Path

import pytest
import torch

import nacgen

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


def examples_of(path: str) -> list[tuple[str, int, str]]:
    """Name, line and text of each docstring with an example; decorators hide some from `doctest`."""
    return [
        (getattr(node, "name", "module"), node.body[0].lineno - 1, text)
        for node in ast.walk(ast.parse(Path(path).read_text("utf-8")))
        if isinstance(node, DOCUMENTED)
        and ">>> " in (text := ast.get_docstring(node, clean=False) or "")
    ]


def modules_with_examples() -> list[str]:
    names = [info.name for info in pkgutil.walk_packages(nacgen.__path__, "nacgen.")]
    paths = {name: importlib.util.find_spec(name).origin for name in names}  # type: ignore[union-attr]
    return [name for name, path in paths.items() if path and examples_of(path)]


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_print_what_they_show(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    for function, line, text in examples_of(str(module.__file__)):
        known = {"torch": torch, "nacgen": nacgen, "Path": Path, "tempfile": tempfile}
        torch.manual_seed(0)
        runner.run(
            doctest.DocTestParser().get_doctest(
                text, known | vars(module), function, module.__file__, line
            )
        )
    assert runner.failures == 0, capsys.readouterr().out
