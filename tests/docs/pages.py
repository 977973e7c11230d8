"""Code blocks of Markdown pages, and the folder in which they run."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.data.files import write_photographs

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/studies/*.md", "checkpoints/*/README.md")
    for path in ROOT.glob(pattern)
)
# Their commands made the figures, in minutes to days: options are checked, nothing is run.
FIGURES = {f"docs/{page}.md" for page in ("generative", "encoders", "objective", "judges", "study")}
KNOWN = {"python", "bash", "text", "yaml", "latex", "bibtex"}
MARK = re.compile(r"<!-- (not run|slow): (.+) -->")
COMMAND = re.compile(r"(nacgen|python|accelerate|torchrun|pip|data=|launch=)\b")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, text and first line, and the mark above it ("", "slow" or "not run")."""

    language: str
    text: str
    line: int
    mark: str


def blocks_of(path: Path) -> list[Block]:
    """Return the blocks of a page; indented ones count if they begin with a command."""
    name, found, mark = path.relative_to(ROOT).as_posix(), [], ""
    is_of_figures = name in FIGURES or name.startswith("docs/studies/")
    for token in MarkdownIt("commonmark").parse(path.read_text("utf-8")):
        if token.type == "html_block" and (match := MARK.match(token.content)):
            mark = match[1]
            continue
        if token.type == "fence" or (token.type == "code_block" and COMMAND.match(token.content)):
            language = token.info or "bash"
            assert language in KNOWN or language.startswith("{"), (
                f"{path}:{token.map[0] + 1}: a block must say what it is, one of {sorted(KNOWN)}"  # type: ignore[index]
            )
            mark = mark or ("not run" if is_of_figures else "")
            found.append(Block(language, token.content, token.map[0] + 2, mark))  # type: ignore[index]
        mark = ""
    return found


def blocks(language: str) -> dict[str, list[Block]]:
    """Return by page its blocks in one language."""
    pages = {path.relative_to(ROOT).as_posix(): blocks_of(path) for path in PAGES}
    chosen = {name: [b for b in found if b.language == language] for name, found in pages.items()}
    return {name: found for name, found in chosen.items() if found}


def make_folder(folder: Path) -> Path:
    """Fill a folder with what pages speak of: the checkout's folders, `photos` and `photos.csv`."""
    for name in ("checkpoints", "recipes", "examples", "docs"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    names = [f"{i:03d}.{kind}" for i in range(16) for kind in ("jpg", "png")]
    write_photographs(folder / "photos", names, size=(40, 36))
    rows = [f"{name},{('cat', 'dog')[i % 2]}" for i, name in enumerate(names)]
    (folder / "photos.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    names = [f"{label}/{i:03d}.png" for label in ("cat", "dog") for i in range(40)]
    write_photographs(folder / "labeled", names, size=(40, 36))
    return folder
