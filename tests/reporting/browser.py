"""Reports as Chromium lays them out, on a phone and on a screen, light and dark."""

import html
import json
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium or google-chrome on PATH, see CONTRIBUTING.md"
)
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")
MEASURE = """
onload = () => {
  document.body.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, box = image => image.getBoundingClientRect();
    page.querySelectorAll("details").forEach(details => { details.open = true; });
    const canvas = page.createElement("canvas").getContext("2d");
    return {
      overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      isDark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
      background: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
      images: [...page.images].map(image => [image.naturalWidth, box(image).left, box(image).right]),
      charts: [...page.querySelectorAll(".chart img")].map(chart => {
        canvas.drawImage(chart, 0, 0);
        return {scale: chart.width / chart.naturalWidth, paper: [...canvas.getImageData(2, 2, 1, 1).data]};
      }),
    };
  }));
};
"""


def lay_out(report: Path, folder: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Open a report in frames of both widths and both color schemes, and measure each."""
    source = html.escape(report.read_text("utf-8"))
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;color-scheme:{scheme}" srcdoc="{source}"></iframe>'
        for width, scheme in product(WIDTHS, SCHEMES)
    )
    page = folder / "frames.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{frames}<script>{MEASURE}</script>")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
    done = subprocess.run(
        [str(BROWSER), *flags, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    body = done.stdout.partition("<body>")[2].partition("</body>")[0]
    return dict(zip(product(WIDTHS, SCHEMES), json.loads(html.unescape(body)), strict=True))


def check_layout(report: Path, folder: Path, num_charts: int) -> None:
    """Check that nothing is wider than the page, that charts are there, readable, and follow the color scheme."""
    for (width, scheme), page in lay_out(report, folder).items():
        assert page["overflow"] <= 0
        assert page["isDark"] == (scheme == "dark")
        assert all(size > 0 and 0 <= left < right <= width for size, left, right in page["images"])
        assert len(page["charts"]) == num_charts
        for chart in page["charts"]:
            assert 12 * chart["scale"] > 9  # pixels of a text of 9 points
            paper = f"rgb({', '.join(map(str, chart['paper'][:3]))})"
            assert paper == page["background"]
