import re
from pathlib import Path

import pytest

from nacgen.comparison.comparison_report import comparison_text, write_comparison_report
from nacgen.reporting import compare, compare_arms
from nacgen.reporting.run_report import write_run_report
from tests.reporting.folders import PROTOCOL, SCORES, MakeRun, Reader

MINUS = "\N{MINUS SIGN}"


def test_comparison_report_holds_every_score(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    markdown, html = write_comparison_report([compare(folders["random"], folders["nac"])], tmp_path)
    tables = Reader(html.read_text()).tables
    seeds, differences, images, cost, protocol, unlike = tables
    assert seeds[0] == [
        "Seed",
        *("random at 20 %", "nac at 20 %", "change"),
        *("random at the end", "nac at the end", "change"),
    ]
    for seed, row in enumerate(seeds[1:4]):
        random, nac = SCORES["random"][seed], SCORES["nac"][seed]
        assert row[0] == str(seed)
        for i in (0, 1):
            assert [float(cell) for cell in row[1 + 3 * i : 3 + 3 * i]] == [random[i], nac[i]]
            percent = float(row[3 + 3 * i].replace(MINUS, "-").removesuffix(" %"))
            assert percent == pytest.approx(100 * (nac[i] / random[i] - 1), abs=0.05)
    assert seeds[4] == ["mean", "28.77", "24.67", "", "14.20", "11.73", ""]
    assert seeds[5] == ["std", "3.01", "0.83", "", "0.72", "0.12", ""]
    rows = ["Against random", "nac at 20 %", "nac over all of training", "nac at the end"]
    assert [row[0] for row in differences] == rows
    assert differences[3][1] == "3 of 3"
    assert differences[3][4:] == ["0.25", "0.25"]
    assert images[0] == ["Images to 14.19", "random", "nac"]
    assert images[1:4] == [
        ["seed 0", "25,600", "25,600"],
        ["seed 1", "25,600", "25,600"],
        ["seed 2", "> 25,600", "25,600"],
    ]
    assert images[4:] == [
        ["reached in", "2 of 3", "3 of 3"],
        ["sooner in", "", "1 of 3"],
        ["exact p", "", "1"],
    ]
    assert cost[1][:5] == ["random", "3", "unknown hardware", "58.2", "174.8"]
    assert dict(protocol[1:]) == {field: str(value) for field, value in PROTOCOL.items()}
    assert unlike[1] == ["init", "random", "nac"]
    for table in (seeds, differences, images, cost):
        for row in table:
            assert f"| {' | '.join(row)} |" in markdown.read_text()


def test_html_reaches_for_nothing_outside(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    reports = write_comparison_report([compare(folders["random"], folders["nac"])], tmp_path)
    for html in (reports[1], write_run_report(folders["nac"][0])[1]):
        reader = Reader(html.read_text())
        assert not reader.open
        targets = [value for name, value in reader.attributes if name in ("src", "href")]
        assert targets
        assert all(value and value.startswith("data:image/") for value in targets)
        assert not re.search(r"https?:|url\(|@import|<script|<link", html.read_text())


def test_links_of_the_markdown_lead_to_files(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    markdown, _ = write_comparison_report([compare(folders["random"], folders["nac"])], tmp_path)
    links = re.findall(r"\]\(([^)]+)\)", markdown.read_text())
    assert len(links) == 6  # two charts, two arms at two moments
    assert all((tmp_path / link).is_file() for link in links)


def test_reports_lead_with_the_verdict_and_state_their_limits(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    comparison = compare(folders["random"], folders["nac"])
    text = write_comparison_report([comparison], tmp_path)[0].read_text()
    assert text.startswith(
        f"# nac against random: fd_digits_classifier, 3 paired seeds\n\n> {comparison.verdict}\n\n"
    )
    for content in (text, comparison_text([comparison])):
        assert comparison.verdict in content
        assert "3 pairs can show a direction and a rough size" in content
        assert "cannot go below 0.25 whatever the scores" in content
    assert "would score about 0.21 (real images" in text


def test_several_arms_share_one_control(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    text = write_comparison_report(compare_arms(folders), tmp_path)[0].read_text()
    assert "# nac and shuffled against random:" in text
    assert "| shuffled at the end | 2 of 3 |" in text
    assert "after Holm, for 2 comparisons with one control" in text
    assert "corrected for 2 comparisons, cannot go below 0.5" in text
    assert "| random, seed 0, 5,120 images | nac, seed 0, 5,120 images | shuffled, seed" in text


def test_what_diverged_stands_at_the_top(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    diverged = {"nac": [1], "shuffled": [2, 0, 1]}
    comparisons = compare_arms(
        {**folders, "nac": folders["nac"][::2], "shuffled": []}, diverged=diverged
    )
    text = write_comparison_report(comparisons, tmp_path, diverged)[0].read_text()
    top = text[: text.index("curve.svg")]
    assert "left out: nac diverged with seed 1." in comparisons[0].verdict
    assert "nac diverged (a loss was not finite) with seed 1: left out of every arm" in top
    assert "shuffled diverged (a loss was not finite) with seeds 0, 1, 2: left out" in top
    assert "2 paired seeds" in top


def test_one_pair_is_reported_without_interval(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    comparison = compare(folders["random"][:1], folders["nac"][:1])
    text = write_comparison_report([comparison], tmp_path)[0].read_text()
    assert "| too few pairs for an interval | 1 | 1 |" in text
    assert "1 paired seed\n" in text
    assert "| std |" not in text


def test_warnings_of_evaluations_are_passed_on(make_run: MakeRun, tmp_path: Path) -> None:
    warning = "not_independent: the features are NAC's own"
    arms = [[make_run({640: 9.0}, init=init, warnings=(warning,))] for init in ("random", "nac")]
    comparison = compare(*arms)
    markdown, _ = write_comparison_report([comparison], tmp_path)
    for text in (markdown.read_text(), comparison_text([comparison])):
        assert text.count(f"Warning: {warning}") == 1
    assert f"Warning: {warning}" in write_run_report(arms[0][0])[0].read_text()
