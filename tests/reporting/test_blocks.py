import base64
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from nacgen.reporting.blocks import (
    Images,
    Table,
    to_html,
    to_markdown,
    to_text,
)

TABLE = Table(["Seed", "score"], [["0", "11.60"], ["1", "9.80"], ["mean", "10.70"]], num_summary=1)


def test_a_table_in_three_forms() -> None:
    assert to_markdown([TABLE], Path()) == (
        "| Seed | score |\n| --- | ---: |\n| 0 | 11.60 |\n| 1 | 9.80 |\n| mean | 10.70 |\n"
    )
    assert to_text(TABLE) == (
        "Seed  score\n-----------\n0     11.60\n1      9.80\n-----------\nmean  10.70"
    )
    html = to_html([TABLE], "title", Path())
    assert '<td>0</td>\n<td style="text-align:right">11.60</td>\n</tr>' in html


def test_text_is_literal_except_for_code() -> None:
    text = "`a<b` & *c* __d__ [e](http://f) <script>"
    blocks = ["# <b>", text, "    x > 1", Table(["a|b"], [["c|d"]])]
    html = to_html(blocks, "<title>", Path())
    assert "<h1>&lt;b&gt;</h1>" in html
    assert "<p><code>a&lt;b</code> &amp; *c* __d__ [e](http://f) &lt;script&gt;</p>" in html
    assert "<pre><code>x &gt; 1\n</code></pre>" in html
    assert "<th>a|b</th>" in html
    assert "<title>&lt;title&gt;</title>" in html
    assert to_markdown(blocks, Path()).startswith(
        "# \\<b>\n\n`a<b` & \\*c\\* \\_\\_d\\_\\_ \\[e\\](http://f) \\<script>\n\n    x > 1\n\n| a\\|b |"
    )


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "![x](http://y)",
    "a | b",
    "\\| b \\",
    "&lt;b&gt;",
    "~~a~~ $b$ _c_ **d**",
    "a\n\n# b\n\n    c",
    "\x1b[31m`",
    "`<b>`",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_names_from_outside_are_shown_as_they_are(text: str, tmp_path: Path) -> None:
    image = tmp_path / (text.replace("/", "") + "\udcff.png")
    with image.open("wb") as file:
        Image.new("RGB", (2, 2)).save(file, "PNG")
    places = [f"# {text}", f"Name {text}", f"> {text}", Table(["N", text], [["1", text]])]
    blocks = [*places, Images([image], [text], "samples"), Images([image], [text], "chart")]
    html = to_html(blocks, text, tmp_path)
    tags = {"a", "html", "head", "meta", "title", "style", "body", "h1", "p", "blockquote", "code"}
    tags |= {"table", "thead", "tbody", "tr", "th", "td", "img", "div", "figure", "figcaption"}
    assert set(re.findall(r"<([a-z0-9]+)", html.partition("</style>")[2])) <= tags
    assert html.count("<img ") == html.count('src="data:image/png;base64,iVBOR') == 2
    assert [html.count(tag) for tag in ("<h1>", "<blockquote>", "<tr>", "<pre>")] == [1, 1, 2, 0]
    assert "\x1b" not in html + to_markdown(blocks, tmp_path)
    # GitHub's rules, all of them, find no more markup in the Markdown.
    page = MarkdownIt("gfm-like", {"linkify": False}).render(to_markdown(blocks, tmp_path))
    assert set(re.findall(r"<([a-z0-9]+)", page)) <= tags - {"a"}
    assert page.count("<img ") == 2


def test_html_holds_its_images_and_markdown_links_them(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "seed 0" / "grid.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(path)
    blocks = [Images([path, path], ["left", "right"], "samples"), Images([path], ["`c`"], "chart")]
    html = to_html(blocks, "title", tmp_path)
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert [base64.b64decode(data) for data in encoded] == [path.read_bytes()] * 3
    assert 'alt="c"' in html
    assert "<figcaption><code>c</code></figcaption>" in html
    markdown = to_markdown(blocks, tmp_path)
    assert "| ![left](runs/seed%200/grid.png) | ![right](runs/seed%200/grid.png) |" in markdown
    assert markdown.endswith("![c](runs/seed%200/grid.png)\n\n`c`\n")
