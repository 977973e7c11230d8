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
from urllib.parse import quote

from markdown_it import MarkdownIt

from nacgen.metrics.result import EvaluationResult, describe_bias, describe_protocol
from nacgen.system.terminal import literal, printable

_RENDERER = MarkdownIt("zero").enable(
    ["backticks", "blockquote", "code", "escape", "heading", "table"]
)
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59616b; --line: #d9dce1; --paper: #fff;
  --panel: #f5f6f8; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #363c44;
  --paper: #15181c; --panel: #1e2228; --accent: #56b4e9; } }
body { background: var(--paper); color: var(--ink); margin: 0 auto; max-width: 54rem;
  padding: 2.5rem 1.25rem 4rem; font: 16px/1.55 system-ui, sans-serif;
  overflow-wrap: break-word; }
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
figure { margin: 0.75rem 0; min-width: 0; }
figcaption { color: var(--soft); font-size: 0.88rem; margin: 0.35rem 0; }
.chart img { background: none; width: 36rem; }
.wide { overflow-x: auto; }
.wide img { max-width: none; }
.samples, .thumbnails { display: flex; flex-wrap: wrap; gap: 0 1.25rem; }
.samples figure { max-width: 24rem; }
.thumbnails figure { width: 7rem; }
.samples img, .thumbnails img { image-rendering: pixelated; width: 24rem; }
summary { cursor: pointer; }
body > details > summary { font-size: 1.15rem; font-weight: 600; margin: 1.5rem 0 0.75rem; }
details { overflow-wrap: anywhere; }
a { color: var(--accent); }
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
    """PNG and SVG files with their captions.

    Samples and thumbnails stand side by side, enlarged without smoothing; wide charts can be pushed on a phone.
    """

    paths: Sequence[Path]
    captions: Sequence[str]
    kind: Literal["chart", "wide chart", "samples", "thumbnails"]


@dataclass(frozen=True)
class Link:
    """A file beside the report with what it is."""

    path: Path
    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks under a heading that opens them."""

    heading: str
    blocks: "Sequence[Block]"


# Text begins as in Markdown: a heading, a paragraph, a quotation or commands.
Block = str | Table | Images | Link | Folded


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
                f"![{literal(caption.replace('`', ''))}]({_address(path, base)})"
                for path, caption in zip(paths, captions, strict=True)
            ]
            if kind.endswith("chart"):
                texts = map(literal, captions)
                return "\n\n".join(filter(None, chain(*zip(links, texts, strict=True))))
            return _rows([[literal(caption) for caption in captions], ["---"] * len(links), links])
        case Table():
            return _with_folded_hashes(_table(block))
        case Link(path, text):
            return f"[{literal(text)}]({_address(path, base)})"
        case Folded(heading, inner):
            head = f"<details>\n<summary>{escape(printable(heading))}</summary>"
            return f"{head}\n\n{to_markdown(inner, base)}\n</details>"


def _table(table: Table) -> str:
    rules = ["---:" if table.is_number(i) else "---" for i in range(len(table.header))]
    head, *body = [[literal(cell) for cell in row] for row in (table.header, *table.rows)]
    return _rows([head, rules, *body])


def _rows(rows: Sequence[Sequence[str]]) -> str:
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def _with_folded_hashes(table: str) -> str:
    """Fold long hexadecimal numbers in a table of Markdown or HTML after their first digits."""
    return re.sub(
        r"\b((?:sha256:)?[0-9a-f]{12})[0-9a-f]{20,}\b",
        r"<details><summary>\1…</summary><code>\g<0></code></details>",
        table,
    )


def _address(path: Path, base: Path) -> str:
    return quote(os.fsencode(Path(os.path.relpath(path, base)).as_posix()))


def to_html(blocks: Sequence[Block], title: str, base: Path) -> str:
    """Render blocks to one HTML 5 file that holds its images; it refers to nothing but the files of links."""
    body = to_fragment(blocks, base).replace(" %", "&nbsp;%")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(printable(title))}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def to_fragment(blocks: Sequence[Block], base: Path) -> str:
    """Render blocks to a part of an HTML page, which holds its images."""
    return "".join(_html(block, base) for block in blocks)


def _html(block: Block, base: Path) -> str:
    match block:
        case Images(paths, captions, kind):
            figures = map(_figure, paths, captions)
            return f'<div class="{kind}">\n{"".join(figures)}</div>\n'
        case Link(path, text):
            return f'<p><a href="{escape(_address(path, base))}">{_inline(text)}</a></p>\n'
        case Folded(heading, inner):
            content = to_fragment(inner, base)
            return f"<details>\n<summary>{_inline(heading)}</summary>\n{content}</details>\n"
        case Table():
            return _with_folded_hashes(_RENDERER.render(_table(block)))
    return str(_RENDERER.render(_markdown(block, base)))


def _figure(path: Path, caption: str) -> str:
    kind = {".svg": "svg+xml"}.get(path.suffix, path.suffix.removeprefix("."))
    source = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    alt = escape(printable(caption.replace("`", "")))
    text = f"<figcaption>{_inline(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" alt="{alt}">{text}</figure>\n'


def _inline(text: str) -> str:
    return str(_RENDERER.renderInline(literal(text)))


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


def score_notes(result: EvaluationResult) -> list[str]:
    """Return the lines that belong to `score_text`: the limits of the scores, and what they rest on."""
    rest = describe_protocol(vars(result.protocol))
    return [*result.warnings, f"protocol: {rest}; --json prints all of it, to report a score with"]


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
