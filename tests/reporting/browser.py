"""Reports as Chromium lays them out, on a phone and on a screen, light and dark."""

import html
import json
import shutil
import subprocess
from collections.abc import Sequence
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


def lay_out(reports: Sequence[Path], folder: Path) -> dict[tuple[Path, int, str], dict[str, Any]]:
    """Open reports in frames of both widths and both color schemes, and measure each."""
    cases = list(product(reports, WIDTHS, SCHEMES))
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;color-scheme:{scheme}" '
        f'srcdoc="{html.escape(report.read_text("utf-8"))}"></iframe>'
        for report, width, scheme in cases
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
    return dict(zip(cases, json.loads(html.unescape(body)), strict=True))
