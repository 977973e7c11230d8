import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nacgen.errors import StorageError
from nacgen.reporting import load_run
from nacgen.reporting.charts import COLORS, comparison_chart, run_curve, score
from tests.reporting.folders import MakeRun


def colors_in(path: Path) -> set[int]:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return set(np.unique(pixels @ [1 << 16, 1 << 8, 1]).tolist())


def rgb(color: str) -> int:
    return int(color[1:], base=16)


def test_a_comparison_draws_every_arm_on_white(make_run: MakeRun, tmp_path: Path) -> None:
    arms = {
        init: [
            load_run(make_run({64: 30.0 + seed, 640: end + seed}, init=init, seed=seed))
            for seed in (0, 1)
        ]
        for init, end in (("random", 14.0), ("nac", 11.0), ("shuffled", 13.0))
    }
    path = comparison_chart(arms, "fd_digits_classifier", tmp_path / "curve.png", title="a title")
    assert Image.open(path).getpixel((0, 0)) == (255, 255, 255, 255)
    assert {rgb(color) for color in COLORS[:3]} <= colors_in(path)
    assert rgb(COLORS[3]) not in colors_in(path)


def test_a_dollar_sign_in_a_name_is_no_formula(make_run: MakeRun, tmp_path: Path) -> None:
    run = load_run(make_run({64: 30.0, 640: 14.0}, metric=r"$\frac$"))
    path = comparison_chart({r"a $\frac$": [run]}, r"$\frac$", tmp_path / "a.png", title=r"$\x$")
    assert path.is_file()


def test_a_long_title_stays_on_the_picture(make_run: MakeRun, tmp_path: Path) -> None:
    arms = {"random": [load_run(make_run({64: 30.0, 640: 14.0}, init="random"))]}
    title = " ".join(["Meaning"] * 24)
    path = comparison_chart(arms, "fd_digits_classifier", tmp_path / "curve.png", title=title)
    edge = np.asarray(Image.open(path).convert("L"))[:200, -20:]
    assert (edge > 250).all()


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    run = load_run(make_run({64: 30.0, 640: 11.0}))
    first = run_curve(run, "fd_digits_classifier", tmp_path / "a.png").read_bytes()
    assert run_curve(run, "fd_digits_classifier", tmp_path / "b.png").read_bytes() == first


@pytest.mark.parametrize("scores", [{640: 11.0}, {64: -0.001, 640: 0.0}, {64: 0.2, 640: 9e5}])
def test_any_finite_scores_can_be_drawn(
    make_run: MakeRun, tmp_path: Path, scores: dict[int, float]
) -> None:
    path = run_curve(load_run(make_run(scores)), "fd_digits_classifier", tmp_path / "curve.png")
    assert rgb(COLORS[1]) in colors_in(path)


def test_a_place_that_cannot_be_written_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/curve\.png cannot be written"):
        run_curve(
            load_run(make_run({64: 1.0})), "fd_digits_classifier", tmp_path / "nowhere/curve.png"
        )


def test_pyplot_stays_out_of_it(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # others import it
    run_curve(load_run(make_run({64: 1.0})), "fd_digits_classifier", tmp_path / "curve.png")
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
