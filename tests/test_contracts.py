"""The contracts of pyproject.toml that no linter of its own checks in an editor."""

import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for room in ("nacgen", "recipes") for p in (ROOT / room).rglob("*.py"))
RUNS_WHAT_IT_READS = (
    r"allow_pickle\s*=\s*(?!False)|trust_remote_code|\.load_state\(|weights_only\s*=\s*False"
)


def test_imports_keep_the_declared_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rooms import downwards, the methods do not know one another, and no files import in a circle."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


def test_no_recipe_imports_another() -> None:
    names = "|".join(path.stem for path in (ROOT / "recipes").glob("*.py"))
    wrong = re.compile(rf"^\s*(from|import) (recipes|\.|({names})\b)", re.MULTILINE)
    assert not [path for path in SOURCES if wrong.search(path.read_text())]


def test_nothing_runs_what_it_reads() -> None:
    """Ruff's rules S and its banned imports find the rest; these are keywords and methods."""
    assert not [path for path in SOURCES if re.search(RUNS_WHAT_IT_READS, path.read_text())]
