"""Reports as lists of blocks, rendered to Markdown, to HTML in one file, or to plain text.

Text may hold `code` between backticks; all other characters are literal, since names and values come from outside.
"""

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from markdown_it import MarkdownIt

from nacgen.metrics.result import EvaluationResult, describe_bias
from nacgen.system.terminal import literal, printable

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
blockquote { background: var(--panel); border-left: 4px solid var(--accent); border-radius: 0 6px 6px 0;
  font-size: 1.05rem; margin: 0.75rem 0; padding: 0.15rem 1.1rem; }
table { border-collapse: collapse; display: block; font-size: 0.92rem; font-variant-numeric: tabular-nums;
  margin: 0.75rem 0; overflow-x: auto; }
th, td { padding: 0.32rem 1.1rem 0.32rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
[style="text-align:right"] { white-space: nowrap; }
img { background: #fff; border-radius: 4px; display: block; max-width: 100%; }
p:has(> img) + p { color: var(--soft); font-size: 0.88rem; }
td img { image-rendering: pixelated; width: 24rem; }
pre { background: var(--panel); border-radius: 6px; padding: 0.8rem 1rem; white-space: pre-wrap; }
code { font: 0.9em ui-monospace, monospace; }
""".strip()


@dataclass(frozen=True)
class Table:
    """Rows of cells; the last `num_summary` rows summarize the others."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_summary: int = 0

    def is_number(self, column: int) -> bool:
        """Return True if every cell of a column that is not empty is a number, for example `> 640`."""
        cells = [row[column] for row in self.rows if row[column]]
        return all(re.match(r"(> |[-+\N{MINUS SIGN}])?\d", cell) for cell in cells)


@dataclass(frozen=True)
class Images:
    """PNG files with their captions; `samples` stand side by side and are enlarged without smoothing."""

    paths: Sequence[Path]
    captions: Sequence[str]
    kind: Literal["chart", "samples"]


# Text begins as in Markdown: a heading, a paragraph, a quotation or commands.
Block = str | Table | Images


def to_markdown(blocks: Sequence[Block], base: Path) -> str:
    """Render blocks to GitHub's Markdown; images are linked relative to the folder `base`."""
    return "\n\n".join(_markdown(block, base) for block in blocks) + "\n"


def _markdown(block: Block, base: Path) -> str:
    match block:
        case str(text):
            start = next(s for s in ("# ", "## ", "> ", "    ", "") if text.startswith(s))
            rest = text.removeprefix(start)
            return start + (printable(rest) if start.isspace() else literal(rest))
        case Images(paths, captions, kind):
            links = [
                f"![{literal(caption.replace('`', ''))}]({quote(os.fsencode(_relative(path, base)))})"
                for path, caption in zip(paths, captions, strict=True)
            ]
            if kind == "chart":
                texts = map(literal, captions)
                return "\n\n".join(filter(None, chain(*zip(links, texts, strict=True))))
            return _rows([[literal(caption) for caption in captions], ["---"] * len(links), links])
        case Table(header, rows):
            rules = ["---:" if block.is_number(i) else "---" for i in range(len(header))]
            head, *body = [[literal(cell) for cell in row] for row in (header, *rows)]
            return _rows([head, rules, *body])


def _rows(rows: Sequence[Sequence[str]]) -> str:
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


def to_html(blocks: Sequence[Block], title: str, base: Path) -> str:
    """Render blocks to one HTML 5 file without references to anything outside it; images are inlined."""
    rules = ["backticks", "blockquote", "code", "escape", "heading", "image", "table"]
    renderer = MarkdownIt("zero").enable(rules)
    shown = [path for block in blocks if isinstance(block, Images) for path in block.paths]
    contents = {_relative(path, base): path.read_bytes() for path in shown}

    def inline(source: re.Match[str]) -> str:
        content = base64.b64encode(contents[unquote(source[1], errors="surrogateescape")]).decode()
        return f'src="data:image/png;base64,{content}"'

    body = renderer.render(to_markdown(blocks, base)).replace(" %", "&nbsp;%")
    body = re.sub('src="([^"]*)"', inline, body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(printable(title))}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def to_text(table: Table) -> str:
    """Render a table with aligned columns for a terminal."""
    lines = [[printable(cell) for cell in line] for line in [table.header, *table.rows]]
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


def score_text(result: EvaluationResult) -> str:
    """Return one line for each score of one set of images: its value, and what is known of its errors."""
    width = max(map(len, result.scores))
    lines = []
    for name, score in result.scores.items():
        facts = []
        if result.protocol.dtype != "float32":
            facts.append(f"features in {result.protocol.dtype}")
        if score.spread is not None:
            facts.append(f"± {score.spread:.3g}, {score.spread_kind}")
        if score.bias:
            facts.append(describe_bias(f"{score.bias:.3g}"))
        lines.append(f"{name:<{width}}  {score.value:<11.6g} {'; '.join(facts)}".rstrip())
    return "\n".join(lines)
