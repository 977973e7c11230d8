"""Execute the notebooks of this folder and write them with their outputs; minutes each on two cores.

    python docs/notebooks/execute.py

Edit the scripts; the `.ipynb` beside each holds the same cells.
"""

import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(script: Path, folder: str) -> nbformat.NotebookNode:
    """Run a script's cells in a folder; return the notebook with outputs, without progress lines.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = jupytext.read(script)
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = str(number)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("[!e]*.py")):
        with tempfile.TemporaryDirectory() as temporary:
            nbformat.write(execute(path, temporary), path.with_suffix(".ipynb"))
