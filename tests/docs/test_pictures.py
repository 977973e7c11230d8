"""Pictures of the pages are drawn from the released encoder, and show what the page says of them."""

import runpy
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.mark.slow
def test_views_of_an_image_are_nearer_than_two_images(tmp_path: Path) -> None:
    draw = runpy.run_path(str(ROOT / "docs" / "pictures" / "draw_nac.py"))["main"]
    percent = draw(tmp_path)
    assert percent["another view"] < 10
    assert 45 < percent["another image"] < 55
    assert {path.name for path in tmp_path.iterdir()} == {"channel.svg", "distances.svg"}
