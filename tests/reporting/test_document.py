import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nacgen.errors import StorageError
from nacgen.reporting import compare, load_run
from nacgen.reporting.document import (
    compare_command,
    report_run,
    write_comparison_report,
    write_run_report,
)
from nacgen.reporting.tables import comparison_text
from tests.reporting.folders import PROTOCOL, MakeRun

SCORES = {
    "random": {0: (27.5, 14.0), 1: (32.2, 13.6), 2: (26.6, 15.0)},
    "nac": {0: (25.6, 11.6), 1: (24.4, 11.8), 2: (24.0, 11.8)},
    "shuffled": {0: (28.6, 14.1), 1: (29.4, 13.5), 2: (27.0, 14.8)},
}
MINUS = "\N{MINUS SIGN}"


class Reader(HTMLParser):
    """Collects tables as rows of text, tags in order, and all attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.tables and self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def folders(make_run: MakeRun) -> dict[str, list[Path]]:
    """Three seeds of three arms."""
    return {
        init: [
            make_run({5120: early, 25600: end}, seed=seed, init=init)
            for seed, (early, end) in table.items()
        ]
        for init, table in SCORES.items()
    }


def test_comparison_report_holds_every_score(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    markdown, html = write_comparison_report([compare(folders["random"], folders["nac"])], tmp_path)
    seeds, differences, seconds, protocol, unlike = Reader(html.read_text()).tables
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
    assert differences[2][:3] == ["nac against random at the end", "25,600", "3 of 3"]
    assert differences[2][5:] == ["0.25", "0.25"]
    assert seconds[1] == ["random", "3", "58.2", "174.8"]
    assert dict(protocol[1:]) == {field: str(value) for field, value in PROTOCOL.items()}
    assert unlike[1] == ["init", "random", "nac"]
    for table in (seeds, differences, seconds):
        for row in table:
            assert f"| {' | '.join(row)} |" in markdown.read_text()


def test_html_reaches_for_nothing_outside(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    reports = write_comparison_report([compare(folders["random"], folders["nac"])], tmp_path)
    for html in (reports[1], write_run_report(folders["nac"][0])[1]):
        reader = Reader(html.read_text())
        assert not reader.open
        targets = [value for name, value in reader.attributes if name in ("src", "href")]
        assert targets
        assert all(value and value.startswith("data:image/png;base64,") for value in targets)
        assert not re.search(r"https?:|url\(|@import|<script|<link", html.read_text())


def test_links_of_the_markdown_lead_to_files(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    markdown, _ = write_comparison_report([compare(folders["random"], folders["nac"])], tmp_path)
    links = re.findall(r"\]\(([^)]+)\)", markdown.read_text())
    assert len(links) == 5  # the chart, two arms at two moments
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
    assert "score about 0.21 in `fd_digits_classifier` with so many samples" in text


def test_several_arms_share_one_control(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    comparisons = [compare(folders["random"], folders[arm]) for arm in ("nac", "shuffled")]
    text = write_comparison_report(comparisons, tmp_path)[0].read_text()
    assert "# nac and shuffled against random:" in text
    assert "| shuffled against random at the end | 25,600 | 2 of 3 |" in text
    assert "No correction is made for the number of comparisons." in text
    assert "| random, seed 0, 5,120 images | nac, seed 0, 5,120 images | shuffled, seed" in text


def test_one_pair_is_reported_without_interval(
    folders: dict[str, list[Path]], tmp_path: Path
) -> None:
    comparison = compare(folders["random"][:1], folders["nac"][:1])
    text = write_comparison_report([comparison], tmp_path)[0].read_text()
    assert "| one pair gives none | 1 | 1 |" in text
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


def test_missing_sample_grids_are_admitted(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run({640: 9.0})
    for grid in (run / "samples").iterdir():
        grid.unlink()
    assert "No sample grids were found." in write_run_report(run)[0].read_text()


def test_run_report_shows_scores_protocol_and_configuration(folders: dict[str, list[Path]]) -> None:
    run = folders["nac"][1]
    markdown, html = write_run_report(run)
    text = markdown.read_text()
    assert text.startswith(
        "# digits: nac initialisation, seed 1\n\n"
        "> `fd_digits_classifier` 11.80 (lower is better) after 25,600 images. A perfect generator "
        "would be expected to score about 0.21 in `fd_digits_classifier` with so many samples.\n"
    )
    assert "| 5,120 | 24.40 |\n| 25,600 | 11.80 |" in text
    for field, value in PROTOCOL.items():
        assert f"| `{field}` | {value} |" in text
    assert "| `optim.learning_rate` | 0.0002 |" in text
    assert "| `seconds` | 58.25 |" in text
    assert "](curve.png)" in text
    assert "](samples/images_00025600.png)" in text
    assert (run / "curve.png").is_file()
    assert ["optim.betas", "0.0 0.99"] in Reader(html.read_text()).tables[3]


def test_run_report_of_another_kind_of_run(make_run: MakeRun) -> None:
    run = make_run({640: 9.0})
    (run / "metrics.jsonl").write_text('{"images_seen": 640, "linear_probe": 0.97}\n')
    (run / "config.yaml").write_text("seed: 3\n")
    text = write_run_report(run)[0].read_text()
    assert text.startswith("# nac-seed0, seed 3\n\n> This run has no scores.")
    assert "Compare initialisations" not in text


@pytest.mark.parametrize(("init", "arm"), [("nac", "nac"), ("random", "nac"), ("shuffled",) * 2])
def test_compare_command_is_short_for_a_run_as_its_preset(
    make_run: MakeRun, init: str, arm: str
) -> None:
    run = load_run(make_run({640: 9.0}, init=init, seed=7, config={"preset": "smoke"}))
    preset = {**run.config, "init": "nac", "seed": 0, "run_dir": None, "preset": "digits"}
    assert shlex.split(compare_command(run, preset)) == [
        *("accelerate", "launch", "recipes/compare.py", "--preset", "smoke"),
        *("--arms", "random", arm, "--seeds", "0", "1", "2"),
    ]


@pytest.mark.parametrize("departure", [{"dataset": "folder"}, {"optim": {"rate": 1.0}}, None])
def test_compare_command_of_any_other_run_names_its_own_configuration(
    make_run: MakeRun, departure: dict[str, object] | None
) -> None:
    run = load_run(make_run({640: 9.0}))
    preset = None if departure is None else {**run.config, **departure}
    words = shlex.split(compare_command(run, preset))
    assert words[3:5] == ["--run-config", str(run.path / "config.yaml")]
    assert not {"--preset", "--encoder"} & set(words)


def test_the_terminal_summary_fits_a_terminal(make_run: MakeRun) -> None:
    fingerprint = {"extractor_fingerprint": "sha256:" + "c9" * 32, "quantisation": "uint8, half up"}
    folder = make_run({640: 9.0}, protocol=fingerprint)
    for grid in (folder / "samples").iterdir():
        grid.unlink()
    text = report_run(folder)
    assert "extractor_fingerprint sha256:c9c9c9c9c9c9," in text
    assert "c9" * 7 not in text
    assert "samples   none" in text
    assert "None" not in text
    named = ("curve", "report", "compare")  # paths are for copying
    lines = [line for line in text.splitlines() if not line.startswith(named)]
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("protocol") for line in lines) == 1


def test_measured_times_are_rounded(make_run: MakeRun) -> None:
    folder = make_run({640: 9.0})
    summary = {"seconds": 1.5089408600006209, "images_seen": 640}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "| `seconds` | 1.50894 |" in write_run_report(folder)[0].read_text()


def test_a_report_that_cannot_be_written_is_named(make_run: MakeRun) -> None:
    run = make_run({640: 9.0})
    (run / ".report.md.new").mkdir()
    with pytest.raises(StorageError, match=r"report\.md cannot be written"):
        write_run_report(run)
    assert not (run / "report.md").exists()
