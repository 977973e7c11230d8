"""A report as a list of blocks, rendered to Markdown, to HTML in one file, or to plain text.

Text may hold `code` between backticks and nothing else; all other characters are literal.
"""

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal
from urllib.parse import quote

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59616b; --line: #d9dce1; --paper: #fff;
  --panel: #f5f6f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #363c44;
  --paper: #15181c; --panel: #1e2228; --accent: #56b4e9; } }
body { background: var(--paper); color: var(--ink); margin: 0 auto; max-width: 54rem;
  padding: 2.5rem 1.25rem 4rem; font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1.25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0.75rem; }
p { margin: 0.75rem 0; }
.lead { background: var(--panel); border-left: 4px solid var(--accent); border-radius: 0 6px 6px 0;
  font-size: 1.05rem; padding: 0.9rem 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums;
  margin: 0.75rem 0; }
th, td { padding: 0.32rem 1.1rem 0.32rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
.number { text-align: right; white-space: nowrap; }
tr.summary td { color: var(--soft); }
tr.first td { border-top: 2px solid var(--soft); }
.row { display: flex; gap: 1.25rem; margin: 0.75rem 0; }
figure { flex: 0 1 auto; margin: 0; }
figcaption { color: var(--soft); font-size: 0.88rem; margin-top: 0.3rem; }
img { background: #fff; border-radius: 4px; display: block; max-width: 100%; }
.chart img { width: 100%; }
.samples img { image-rendering: pixelated; width: 24rem; }
pre { background: var(--panel); border-radius: 6px; padding: 0.8rem 1rem; white-space: pre-wrap; }
code { font: 0.9em ui-monospace, monospace; }
""".strip()


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the report's title."""

    text: str
    level: Literal[1, 2] = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text; the `lead` paragraph is what a reader in a hurry reads."""

    text: str
    lead: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; the last `num_summary` of them sum the others up."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_summary: int = 0

    def is_number(self, column: int) -> bool:
        """Whether a column is set flush right: every cell that is not empty is a figure, `> 640` too."""
        cells = [row[column] for row in self.rows if row[column]]
        return all(re.match(r"(> |[-+\N{MINUS SIGN}])?\d", cell) for cell in cells)


@dataclass(frozen=True)
class Images:
    """PNG files side by side with their captions; `samples` are enlarged without smoothing."""

    paths: Sequence[Path]
    captions: Sequence[str]
    kind: Literal["chart", "samples"]


@dataclass(frozen=True)
class Code:
    """Commands to copy."""

    text: str


Block = Heading | Paragraph | Table | Images | Code


def to_markdown(blocks: Sequence[Block], base: Path) -> str:
    """Render to Markdown.

    Args:
        blocks: The report.
        base: Folder of the Markdown file; images are linked relative to it.

    Returns:
        GitHub's Markdown.
    """
    return "\n\n".join(_markdown(block, base) for block in blocks) + "\n"


def _markdown(block: Block, base: Path) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text, lead):
            return f"> {text}" if lead else text
        case Code(text):
            return "\n".join(f"    {line}" for line in text.splitlines())
        case Images(paths, captions, kind):
            links = [
                f"![{caption}]({quote(Path(os.path.relpath(path, base)).as_posix())})"
                for path, caption in zip(paths, captions, strict=True)
            ]
            if kind == "chart":
                return "\n\n".join(links)
            return _markdown(Table(captions, [links]), base)
        case Table(header, rows):
            rules = ["---:" if block.is_number(i) else "---" for i in range(len(header))]
            lines = [[cell.replace("|", "\\|") for cell in row] for row in [header, rules, *rows]]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Render to one HTML file without references to anything outside it.

    Args:
        blocks: The report.
        title: Title of the window.

    Returns:
        HTML 5; images are inlined.
    """
    body = "\n".join(map(_html, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text, lead):
            return ('<p class="lead">' if lead else "<p>") + f"{_inline(text)}</p>"
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Images(paths, captions, kind):
            pairs = zip(paths, captions, strict=True)
            figures = "".join(_html_figure(path, caption, kind) for path, caption in pairs)
            return f'<div class="row">{figures}</div>'
        case Table(header, rows, num_summary):
            numbers = [' class="number"' if block.is_number(i) else "" for i in range(len(header))]
            lines = [_html_row("th", "", header, numbers)]
            first = len(rows) - num_summary
            for index, row in enumerate(rows):
                rule = "" if index < first else "summary first" if index == first else "summary"
                lines.append(_html_row("td", f' class="{rule}"' if rule else "", row, numbers))
            return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _html_figure(path: Path, caption: str, kind: str) -> str:
    described = escape(caption.replace("`", ""))
    image = f'<img alt="{described}" src="{_data_uri(path)}">'
    return f'<figure class="{kind}">{image}<figcaption>{_inline(caption)}</figcaption></figure>'


def _html_row(tag: str, kind: str, cells: Sequence[str], numbers: Sequence[str]) -> str:
    inner = (
        f"<{tag}{number}>{_inline(cell)}</{tag}>"
        for cell, number in zip(cells, numbers, strict=True)
    )
    return f"<tr{kind}>{''.join(inner)}</tr>"


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return text.replace(" %", "&nbsp;%")


def _data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def to_text(table: Table) -> str:
    """Render a table for a terminal, columns aligned."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]
    rendered = [
        "  ".join(
            cell.rjust(width) if table.is_number(i) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rules = {1, len(lines) - table.num_summary} if table.num_summary else {1}
    for index in sorted(rules, reverse=True):
        rendered.insert(index, "-" * max(map(len, rendered)))
    return "\n".join(rendered)
