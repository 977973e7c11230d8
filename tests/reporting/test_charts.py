import re
import sys
from pathlib import Path

import pytest

from nacgen.errors import StorageError
from nacgen.reporting import load_run
from nacgen.reporting.charts import (
    COLORS,
    FAINT,
    IN_THE_DARK,
    comparison_chart,
    run_curve,
    score,
    style_of,
)
from tests.reporting.folders import MakeRun


def styles_of(path: Path) -> list[tuple[str, str]]:
    """Return color and dashes of the lines of a chart that are drawn with dashes or without."""
    lines = re.findall(
        r'd="[^"]*"(?: clip-path="[^"]*")? style="(fill: none; [^"]*)"', path.read_text()
    )
    found = [(re.search("#[0-9a-f]{6}", x), re.search(r"dasharray: ([^;\"]*)", x)) for x in lines]
    return [(color[0], dashes[1] if dashes else "") for color, dashes in found if color]


def test_arms_of_a_comparison_differ_in_color_dashes_and_markers(
    make_run: MakeRun, tmp_path: Path
) -> None:
    arms = {
        init: [
            load_run(make_run({64: 30.0 + seed, 640: end + seed}, init=init, seed=seed))
            for seed in (0, 1)
        ]
        for init, end in (("random", 14.0), ("nac", 11.0), ("shuffled", 13.0))
    }
    path = comparison_chart(arms, "fd_digits_classifier", tmp_path / "curve.svg", title="a title")
    drawn = path.read_text()
    assert ">fd_digits_classifier (lower is</text>" in drawn, "two lines beside a short axis"
    assert ">better), log scale</text>" in drawn
    bold = [style for style in styles_of(path) if style[0] != FAINT][2::3]
    assert [color for color, _ in bold] == list(COLORS[:3])
    assert len({dashes for _, dashes in bold}) == 3
    assert len({tuple(style_of(index).items()) for index in range(20)}) == 20
    assert len({(style_of(i)["linestyle"], style_of(i)["marker"]) for i in range(20)}) == 20


def test_single_evaluations_are_drawn_as_points(make_run: MakeRun, tmp_path: Path) -> None:
    arms = {
        init: [load_run(make_run({640: 11.0 + s}, init=init, seed=s)) for s in (0, 1)]
        for init in ("random", "nac")
    }
    path = comparison_chart(arms, "fd_digits_classifier", tmp_path / "curve.svg", title="a title")
    drawn = path.read_text().partition("</defs>")[2]
    assert drawn.count("<use ") >= 6, "two seeds and their mean, of two arms"


def test_a_chart_has_colors_for_dark_paper_and_texts_in_the_readers_font(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = load_run(make_run({64: 30.0, 640: 11.0}, init="#0072b2 <b>"))
    text = run_curve(run, "fd_digits_classifier", tmp_path / "a.svg").read_text()
    rules, drawn = text.partition("<style>")[2].split("</style>", 1)
    assert rules.startswith("@media(prefers-color-scheme:dark){")  # other viewers pass over them
    assert ">#0072b2 &lt;b&gt;, seed 0</text>" in drawn
    used = set(re.findall(r"((?:fill|stroke): (#[0-9a-f]{6}))", drawn))
    assert {"fill: #1f2328", "stroke: #0072b2"} <= {style for style, _ in used}  # for light paper
    for style, color in used:
        name = style.partition(":")[0]
        assert f'[style*="{style}"]{{{name}:{IN_THE_DARK[color]}!important}}' in rules
    assert "var(" not in text
    assert "DejaVu" not in drawn


def test_a_dollar_sign_in_a_name_is_no_formula(make_run: MakeRun, tmp_path: Path) -> None:
    run = load_run(make_run({64: 30.0, 640: 14.0}, metric=r"$\frac$"))
    path = comparison_chart({r"a $\frac$": [run]}, r"$\frac$", tmp_path / "a.svg", title=r"$\x$")
    assert path.is_file()


def test_a_long_title_is_broken_into_lines(make_run: MakeRun, tmp_path: Path) -> None:
    arms = {"random": [load_run(make_run({64: 30.0, 640: 14.0}, init="random"))]}
    title = " ".join(["Meaning"] * 24)
    path = comparison_chart(arms, "fd_digits_classifier", tmp_path / "curve.svg", title=title)
    assert max(map(len, re.findall(r">([^<>]*Meaning[^<>]*)<", path.read_text()))) <= 44


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    run = load_run(make_run({64: 30.0, 640: 11.0}))
    first = run_curve(run, "fd_digits_classifier", tmp_path / "a.svg").read_bytes()
    assert run_curve(run, "fd_digits_classifier", tmp_path / "b.svg").read_bytes() == first


@pytest.mark.parametrize("scores", [{640: 11.0}, {64: -0.001, 640: 0.0}, {64: 0.2, 640: 9e5}])
def test_any_finite_scores_can_be_drawn(
    make_run: MakeRun, tmp_path: Path, scores: dict[int, float]
) -> None:
    path = run_curve(load_run(make_run(scores)), "fd_digits_classifier", tmp_path / "curve.svg")
    assert (COLORS[1], "7.4,3.2") in styles_of(path)


def test_a_place_that_cannot_be_written_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/curve\.svg cannot be written"):
        run_curve(
            load_run(make_run({64: 1.0})), "fd_digits_classifier", tmp_path / "nowhere/curve.svg"
        )


def test_pyplot_stays_out_of_it(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # others import it
    run_curve(load_run(make_run({64: 1.0})), "fd_digits_classifier", tmp_path / "curve.svg")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (11.624, "11.62"),
        (0.0012341, "0.001234"),
        (123.44, "123.4"),
        (12345.6, "12,346"),
        (0.0, "0.000"),
        (-0.25, "-0.2500"),
        (1e300, "1e+300"),
        (1.5e-300, "1.5e-300"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_scores_have_four_significant_digits(value: float, text: str) -> None:
    assert score(value) == text


def test_a_column_shares_its_decimals() -> None:
    assert [score(value, 27.5) for value in (27.5, 9.0, 0.12)] == ["27.50", "9.00", "0.12"]
