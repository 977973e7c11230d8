"""Comparisons from Python: finished runs, trained arms, and the tables that they print."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

import nacgen
from nacgen.comparison import options, paired_comparison
from nacgen.errors import ConfigurationError
from tests.reporting.folders import MakeRun


def test_finished_runs_are_compared_as_tables(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    arms = {name: folders[name] for name in ("random", "nac", "shuffled")}
    runs = arms | {"nac": [nacgen.TrainedRun(path) for path in arms["nac"]]}
    comparison = nacgen.compare(runs, run_dir=tmp_path / "report")
    expected = paired_comparison.compare_arms(arms)
    assert comparison.verdicts == [each.verdict for each in expected]
    head, _, *rows = comparison.to_markdown().splitlines()
    assert head.startswith(
        "| arm | fd_digits_classifier ↓ | change against random | 95 % interval | better in |"
    )
    assert [row.split(" | ")[0] for row in rows] == ["| random", "| nac", "| shuffled"]
    lines = comparison.to_latex().splitlines()
    assert lines[:2] == [r"\begin{tabular}{lrrrrrr}", r"\toprule"]
    assert lines[2].startswith(
        r"arm & fd\_digits\_classifier $\downarrow$ & change against random & 95 \% interval &"
    )
    assert next(line for line in lines if line.startswith("nac &")).count("&") == 6
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert "±" not in comparison.to_latex()
    table = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    end = [
        float(row["score"]) for row in table if (row["arm"], row["when"]) == ("nac", "at the end")
    ]
    assert tuple(end) == expected[0].end.scores_b
    for name, text in (
        ("table.md", comparison.to_markdown()),
        ("table.tex", comparison.to_latex()),
        ("scores.csv", comparison.to_csv()),
    ):
        assert (tmp_path / "report" / name).read_text() == text
    html = comparison._repr_html_()
    assert ">fd_digits_classifier ↓</th>" in html
    assert "report.html" in html
    assert str(comparison) == "\n".join(comparison.verdicts)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, "two arms or more, got 0"),
        ({"a": ["runs/a"]}, "two arms or more, got 1"),
        ({"a": 3, "b": 4}, "got 3 for a. Give one for"),
        ("random", r"are a list, as in \['random', 'nac'\], got 'random'"),
    ],
)
def test_what_is_no_arms_is_told(arms: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        nacgen.compare(arms)


def test_one_run_of_an_arm_needs_no_list(make_run: MakeRun) -> None:
    random, nac = make_run({64: 2.0}), make_run({64: 1.0}, init="random")
    listed = nacgen.compare({"random": [random], "nac": [nac]})
    assert nacgen.compare({"random": str(random), "nac": nacgen.TrainedRun(nac)}) == listed


def test_names_are_text_in_latex_and_html(make_run: MakeRun) -> None:
    runs = {"a_<b>&": [make_run({64: 2.0})], "50%": [make_run({64: 1.0}, init="random")]}
    comparison = nacgen.compare(runs)
    assert r"a\_<b>\& & 2.000 &" in comparison.to_latex()
    assert r"50\% & 1.000 & $-$50.0 \% &" in comparison.to_latex()
    assert "<td>a_&lt;b&gt;&amp;</td>" in comparison._repr_html_()


def test_latex_has_a_dash_where_there_is_no_interval(folders: dict[str, list[Path]]) -> None:
    two = nacgen.compare({name: folders[name][:2] for name in ("random", "nac")})
    *_, row, rule, note, end = two.to_latex().splitlines()
    assert " & -- & 2 of 2 & 0.5 " in row
    note_text = r"\multicolumn{6}{l}{{\footnotesize --: too few pairs for an interval}} \\"
    assert (rule, note, end) == (r"\bottomrule", note_text, r"\end{tabular}")
    assert "| too few pairs for an interval |" in two.to_markdown()


def test_arms_are_trained_as_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: dict[str, list[Path]]
) -> None:
    asked: list[options.CompareConfig] = []

    def train(config: Any, recipe: Path) -> Any:
        asked.append(config)
        return {name: folders[name] for name in ("random", "nac")}, {"random": [], "nac": []}

    monkeypatch.setattr("nacgen.comparison.arms.train_arms", train)
    encoder = nacgen.NACEncoder()
    comparison = nacgen.compare(
        ["random", "nac"],
        seeds=range(3),
        encoder=encoder,
        run_dir=tmp_path / "comparison",
        total_images=2_560,
    )
    (config,) = asked
    assert (config.arms, config.seeds, config.total_images) == (("random", "nac"), (0, 1, 2), 2_560)
    assert Path(str(config.encoder)).parent == tmp_path / "encoders"
    assert comparison.reports == (
        tmp_path / "comparison/report.md",
        tmp_path / "comparison/report.html",
    )
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigurationError, match=r"as rank 1\. Call it on rank 0 alone"):
        nacgen.compare(["random", "nac"], run_dir=tmp_path / "comparison")
    with pytest.raises(ConfigurationError, match=r"options of training .*got seeds, encoder with"):
        nacgen.compare({"a": [], "b": []}, seeds=(1, 2), encoder=encoder)
