"""Pages that nobody types: presets, model zoo, reference of the Python API, and the notebook with its outputs."""

import base64
import hashlib
import importlib
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from sphinx.util.inspect import stringify_signature

from nacgen.cli import RECIPES
from nacgen.models.folder import PretrainedModel
from nacgen.training.help import preset_facts

ROOT = Path(__file__).parents[1]
# Modules whose public names are documented, with the title of their section.
PUBLIC = {
    "nacgen": "The package",
    "nacgen.transplant": "Transplants",
    "nacgen.metrics": "Scores",
    "nacgen.comparison": "Comparisons",
}
FILES = ("from_pretrained", "save_pretrained")  # inherited methods of models that are shown
ALL_OF = "nacgen.functional"  # a package whose modules are documented whole


def write(folder: Path) -> None:
    """Write all generated pages into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pages = {"presets.md": presets(), "zoo.md": zoo(), "api.rst": api()}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        pages[f"{path.stem}.md"] = notebook(path, folder)
    for name, lines in pages.items():
        (folder / name).write_text("\n".join(lines) + "\n", "utf-8")


def presets() -> Iterator[str]:
    """Yield the page of all presets, from what `nacgen presets` prints."""
    yield "# Every preset\n"
    yield "Each command runs one recipe, `--preset NAME` chooses one of its presets, and other options replace"
    yield "single values: `nacgen train-gan --preset digits --optim.learning-rate 0.0005`."
    yield "`nacgen presets COMMAND` prints a part of this page.\n"
    for command, recipe in RECIPES.items():
        module = importlib.import_module(f"nacgen.recipes.{recipe}")
        yield f"## nacgen {command}\n"
        yield f"{(module.__doc__ or '').splitlines()[0]}\n"
        facts = preset_facts(module)
        trains = any(length for length, _ in facts.values())
        length_title = " data and length |" if trains else ""
        yield f"| preset |{length_title} hardware, time, what to expect |\n| --- |{' --- |' * (1 + trains)}"
        for name, (length, comment) in facts.items():
            cell = f" {length} |" if trains else ""
            yield f"| `{name}` |{cell} {_code_of_flags(comment)} |"
        yield ""


def zoo() -> Iterator[str]:
    """Yield the page of the released models, from the cards and configurations in `checkpoints/`."""
    paths = (ROOT / "checkpoints").glob("*/model.safetensors")
    folders = sorted(paths, key=lambda path: ("classifier" in path.parent.name, path))
    yield "# Model zoo\n"
    yield "These models are in the repository and in the wheel; their paths work wherever you are. Below stand"
    yield "their cards. [Encoders compared](../encoders.md) measures encoders side by side.\n"
    yield "| path | size | license | SHA-256 of `model.safetensors` |\n| --- | ---: | --- | --- |"
    for path in folders:
        front, _ = _card(path.with_name("README.md"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name, size = path.parent.name, path.stat().st_size
        yield f"| [`checkpoints/{name}`](#{name}) | {_size(size)} | {front['license']} | `{digest[:16]}…` |"
    for path in folders:
        _, text = _card(path.with_name("README.md"))
        yield f"\n## {path.parent.name}\n"
        yield re.sub(r"^#+ (.*)", r"**\1**", text, flags=re.MULTILINE).replace(
            "path/to/this/folder", f"checkpoints/{path.parent.name}"
        )


def api() -> Iterator[str]:
    """Yield the reference of public names, by module and in the order in which they stand there."""
    yield from _heading("Python API", "=")
    yield "Images are floats ``(b, 3, h, w)`` in [-1, 1] unless a function says otherwise. ``nacgen.errors`` has"
    yield "the errors; ``except nacgen.errors.NacgenError`` catches them all.\n"
    documented: set[Any] = set()
    for module_name, title in PUBLIC.items():
        module = importlib.import_module(module_name)
        yield from _heading(title, "-")
        yield f"``{module_name}``\n"
        for name in module.__all__:
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing not in documented:
                documented.add(thing)
                yield from _directive(thing)
    package = importlib.import_module(ALL_OF)
    yield from _heading("Losses and statistics as functions", "-")
    yield f"``{ALL_OF}``: {(package.__doc__ or '').strip()}\n"
    for path in sorted(Path(*package.__path__).glob("[a-z]*.py")):
        name = f"{ALL_OF}.{path.stem}"
        module = importlib.import_module(name)
        yield from _heading(path.stem, "~")
        yield re.sub(r"`([^`]+)`", r"``\1``", f"{inspect.getdoc(module)}\n")
        for thing in vars(module).values():
            is_own = getattr(thing, "__module__", "") == name and not thing.__name__.startswith("_")
            if is_own and thing not in documented and callable(thing):
                documented.add(thing)
                yield from _directive(thing)


def notebook(path: Path, folder: Path) -> Iterator[str]:
    """Yield an executed notebook as Markdown; its pictures are written beside it."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    pictures = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield f"{source}\n"
            continue
        yield f"```python\n{source}\n```\n"
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                picture = folder / f"{path.stem}-{pictures}.png"
                picture.write_bytes(base64.b64decode(data["image/png"]))
                yield f"![Output of the cell above]({picture.name})\n"
            elif "text/markdown" in data:
                yield "".join(data["text/markdown"]) + "\n"
            elif text := "".join(output.get("text", data.get("text/plain", ""))).strip():
                yield f"```text\n{text}\n```\n"


def prepare_docstring(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Turn single backticks into reStructuredText's code, in place; Sphinx calls it."""
    lines[:] = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines)).split("\n")


def show_signature(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Return the constructor's arguments where a base class hides them; Sphinx calls it."""
    if signature != "(*args, **kwargs)" or not inspect.isclass(thing):
        return None
    return stringify_signature(inspect.signature(thing), show_return_annotation=False), returned


def _directive(thing: Any) -> Iterator[str]:
    kind = "class" if inspect.isclass(thing) else "function"
    yield f".. auto{kind}:: {thing.__module__}.{thing.__qualname__}"
    if kind == "class":
        yield "   :members:\n"
        if issubclass(thing, PretrainedModel):
            yield from (f"   .. automethod:: {name}" for name in FILES if name not in vars(thing))
    yield ""


def _heading(text: str, line: str) -> Iterator[str]:
    yield f"{text}\n{line * len(text)}\n"


def _card(path: Path) -> tuple[dict[str, Any], str]:
    """Return a card's front matter and its text."""
    _, front, text = path.read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _code_of_flags(text: str) -> str:
    """Return a text whose flags and paths are set as code."""
    return re.sub(r"(?<![`\w])(--[\w.-]*\w)", r"`\1`", text)
