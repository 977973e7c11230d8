import math
import re
from pathlib import Path

import pytest

from nacgen.comparison.forest import forest_plot, forest_rows, tick_places
from nacgen.reporting import compare, compare_arms
from nacgen.reporting.charts import COLORS
from tests.reporting.folders import MakeRun


def test_every_endpoint_has_a_row_with_its_figures(folders: dict[str, list[Path]]) -> None:
    comparison = compare(folders["random"], folders["nac"], target=14.0)
    early, area, end, images = forest_rows(comparison)
    assert early == ("score at 20 %", comparison.early)
    assert area == ("score over all of training", comparison.area)
    assert end == ("score at the end", comparison.end)
    assert images == ("images to 14.00", comparison.images_to_score)


def test_every_arm_is_drawn_in_its_color(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    path = forest_plot(compare_arms(folders), tmp_path / "forest.svg")
    drawn = path.read_text().partition("</defs>")[2]
    assert [color in drawn for color in COLORS[1:4]] == [True, True, False]
    one = forest_plot([compare(folders["random"], folders["nac"])], tmp_path / "one.svg")
    heights = [float(re.findall(r'height="([\d.]+)pt"', p.read_text())[0]) for p in (one, path)]
    assert heights[0] < heights[1]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_few_pairs_and_equal_scores_can_be_drawn(
    make_run: MakeRun, tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    arms = [
        [make_run({64: 9.0, 640: 8.0}, init=init, seed=seed) for seed in seeds]
        for init in ("random", "nac")
    ]
    assert forest_plot([compare(*arms)], tmp_path / "forest.svg").is_file()


@pytest.mark.parametrize(
    ("low", "high", "percents"),
    [(-0.056, 0.056, [-5, -2, 0, 2, 5]), (-0.5, 0.9, [-30, 0, 50, 100])],
)
def test_narrow_and_wide_axes_are_marked(low: float, high: float, percents: list[int]) -> None:
    assert [round(100 * math.expm1(place)) for place in tick_places(low, high)] == percents
