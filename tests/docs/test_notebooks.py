"""Notebooks run from top to bottom, and hold the cells of the scripts that they are paired with."""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT

SCRIPTS = [path for path in (ROOT / "docs" / "notebooks").glob("*.py") if path.name != "execute.py"]
jupytext = pytest.importorskip("jupytext")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_holds_the_cells_of_its_script(script: Path) -> None:
    there, here = (jupytext.read(path).cells for path in (script.with_suffix(".ipynb"), script))
    assert [cell.source for cell in there] == [cell.source for cell in here], (
        "python docs/notebooks/execute.py writes the notebooks anew"
    )
    assert any(cell.get("outputs") for cell in there)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from execute import execute

    assert execute(script, str(tmp_path)).cells
