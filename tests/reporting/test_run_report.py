import json
import os
import shlex
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from nacgen.errors import ConfigurationError, StorageError
from nacgen.metrics.run_scores import NO_SCORES
from nacgen.reporting import compare, load_run
from nacgen.reporting.run_report import compare_command, report_run, write_run_report
from tests.reporting.folders import PROTOCOL, MakeRun, Reader


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
        "# digits: nac initialization, seed 1\n\n"
        "> `fd_digits_classifier` 11.80 (lower is better) after 25,600 images. In "
        "`fd_digits_classifier`, independent samples of one Gaussian would score about 0.21 (real images some "
        "15 % more, with few of them twice as much and more; splits with balanced classes less).\n"
    )
    assert "| 5,120 | 24.40 |\n| 25,600 | 11.80 |" in text
    for field, value in PROTOCOL.items():
        assert f"| `{field}` | {value} |" in text
    assert "| `optim.learning_rate` | 0.0002 |" in text
    assert "| `seconds` | 58.25 |" in text
    assert "](curve.svg)" in text
    assert "](samples/images_00025600.png)" in text
    assert (run / "curve.svg").is_file()
    assert ["optim.betas", "0.0 0.99"] in Reader(html.read_text()).tables[3]


def test_a_bias_of_hundreds_has_no_exponent(make_run: MakeRun) -> None:
    report = write_run_report(make_run({640: 300.0}, bias=268.8))[0]
    assert "would score about 270 (" in report.read_text()


def test_run_report_of_another_kind_of_run(make_run: MakeRun) -> None:
    run = make_run({640: 9.0})
    (run / "metrics.jsonl").write_text('{"images_seen": 640, "linear_probe": 0.97}\n')
    (run / "config.yaml").write_text("seed: 3\n")
    text = write_run_report(run)[0].read_text()
    assert text.startswith("# nac-seed0, seed 3\n\n> This run has no scores.")
    assert "Compare initializations" not in text


def test_pictures_and_facts_that_are_damaged_are_passed_over(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run({640: 9.0, 1280: 8.0})
    for name in ("curve.svg", "report.md", "report.html", "environment.json"):
        (run / name).write_bytes(b"")
    grids = sorted((run / "samples").glob("*.png"))
    grids[0].write_bytes(b"")
    grids[1].write_bytes(grids[1].read_bytes()[:-5])
    os.mkfifo(run / "samples" / "mixture.png")
    markdown, html = write_run_report(run)
    for name in (*(grid.name for grid in grids), "mixture.png"):
        assert f"Passed over, since it is no whole PNG file: {name}\n" in markdown.read_text()
    assert html.read_text().count("<img ") == 1  # the curve, made again
    assert f"passed over: {run}/environment.json should hold a mapping" in capsys.readouterr().err


def test_a_warning_of_the_last_scores_is_told_under_them(make_run: MakeRun) -> None:
    lines = report_run(make_run({640: 9.0}, warnings=("rank_deficient: few.",))).splitlines()
    at = lines.index("          warning: rank_deficient: few.")
    assert lines[0].startswith("scores    fd_digits_classifier 9.000 ")
    assert lines[at + 1].startswith("protocol ")


@pytest.mark.parametrize(("init", "arm"), [("nac", "nac"), ("random", "nac"), ("shuffled",) * 2])
def test_compare_command_is_short_for_a_run_as_its_preset(
    make_run: MakeRun, init: str, arm: str
) -> None:
    run = load_run(make_run({640: 9.0}, init=init, seed=7, config={"preset": "smoke"}))
    preset = {**run.config, "init": "nac", "seed": 0, "run_dir": None, "preset": "digits"}
    assert shlex.split(compare_command(run, preset)) == [
        *("nacgen", "compare", "--preset", "smoke"),
        *("--arms", "random", arm, "--seeds", "0", "1", "2"),
    ]


@pytest.mark.parametrize("departure", [{"dataset": "folder"}, {"optim": {"rate": 1.0}}, None])
def test_compare_command_of_any_other_run_names_its_own_configuration(
    make_run: MakeRun, departure: dict[str, object] | None
) -> None:
    run = load_run(make_run({640: 9.0}))
    preset = None if departure is None else {**run.config, **departure}
    words = shlex.split(compare_command(run, preset))
    assert words[2:4] == ["--run-config", str(run.path / "config.yaml")]
    assert not {"--preset", "--encoder"} & set(words)


def test_a_run_that_is_not_scored_says_so_and_shows_its_samples(make_run: MakeRun) -> None:
    folder = make_run({640: 9.0})
    row = {"images_seen": 640, "evaluation": NO_SCORES}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    text = report_run(folder)
    assert text.startswith(
        "scores    The model has seen 640 images; its samples were not scored, as "
    )
    assert "protocol" not in text
    assert "warning" not in text
    assert "curve" not in text
    assert "compare" not in text
    markdown = (folder / "report.md").read_text()
    assert "> The model has seen 640 images; its samples were not scored, as `--score" in markdown
    assert "`nacgen evaluate REFERENCE RUN` scores them at any time." in markdown
    assert "## Scores" not in markdown
    assert "Protocol" not in markdown
    assert "Warning" not in markdown
    assert "## Samples" in markdown
    with pytest.raises(ConfigurationError, match="a comparison needs runs with scores, got "):
        compare([folder], [folder])


@pytest.mark.parametrize(
    ("network", "more"),
    [("residual", ""), ("my.net:G", " --generator my.net:G"), ("own:G-1", None)],
)
def test_the_report_says_how_to_draw_more_samples(
    make_run: MakeRun, network: str, more: str | None
) -> None:
    folder = make_run({640: 9.0}, config={"generator": {"network": network}})
    text = write_run_report(folder)[0].read_text()
    command = f"    nacgen sample --run-dir {folder} --num-images 500 --columns 0 --output images"
    assert ("## More samples" in text) == (more is not None)
    assert more is None or f"\n\n{command}{more}\n" in text


def test_compare_command_names_another_recipe(make_run: MakeRun) -> None:
    recorded = make_run({640: 9.0}, environment={"recipe": "train_vae"})
    earlier = make_run({640: 9.0}, seed=1, config={"posterior": {"mode": "init"}})
    for run in (recorded, earlier):
        words = shlex.split(compare_command(load_run(run)))
        assert words[1:5] == ["compare", "--recipe", "train_vae", "--run-config"]


@pytest.mark.parametrize(("align", "last"), [("none", "nac"), ("nac", "nac"), ("simclr", "simclr")])
def test_a_run_that_is_aligned_is_compared_to_both_controls(
    make_run: MakeRun, align: str, last: str
) -> None:
    run = make_run(
        {640: 9.0}, config={"align": align, "init": None}, environment={"recipe": "train_flow"}
    )
    configuration = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(configuration.replace("init: null\n", ""))
    text = write_run_report(run)[0].read_text()
    assert text.startswith(f"# digits: {align} alignment, seed 0\n")
    assert "## Compare alignments\n" in text
    preset = {**load_run(run).config, "align": "nac"}
    assert shlex.split(compare_command(load_run(run), preset)) == [
        *("nacgen", "compare", "--recipe", "train_flow", "--preset", "digits"),
        *("--arms", "none", "random", last, "--seeds", "0", "1", "2"),
    ]


def test_controls_of_an_unaligned_run_need_an_encoder(make_run: MakeRun) -> None:
    found = []
    for seed, (align, encoder) in enumerate([("none", None), ("none", "own"), ("nac", "own")]):
        config = {"align": align, "encoder": encoder, "dataset": "cifar10"}
        folder = make_run({640: 9.0}, seed=seed, config=config)
        run = replace(load_run(folder), config=config)
        words = shlex.split(compare_command(run))
        found.append(words[words.index("--arms") - 2 : words.index("--arms")])
    assert found[0] == ["--encoder", "ENCODER"]
    assert all(words[0] == "--run-config" for words in found[1:])


def test_compare_command_keeps_precision_and_passes_over_threads(make_run: MakeRun) -> None:
    folder = make_run(
        {640: 9.0}, environment={"mixed_precision": "bf16"}, config={"run": {"num_threads": 8}}
    )
    preset = {**load_run(folder).config, "run": {"num_threads": None}}
    command = compare_command(load_run(folder), preset)
    start = "accelerate launch --mixed_precision bf16 -m nacgen.recipes.compare --preset digits "
    assert command.startswith(start)


def test_the_terminal_summary_fits_a_terminal(make_run: MakeRun) -> None:
    fingerprint = {"extractor_fingerprint": "sha256:" + "c9" * 32, "quantization": "uint8, half up"}
    folder = make_run({640: 9.0}, protocol=fingerprint)
    for grid in (folder / "samples").iterdir():
        grid.unlink()
    text = report_run(folder)
    assert (
        "\nprotocol  extractor digits_classifier, reference digits/train, 1,442 reference images, 2,000 samples\n"
        "          To report a score, take the whole protocol: it is in the report and summary.json.\ncurve "
    ) in text
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
    (run / f".report.md.{socket.gethostname()}.{os.getpid()}.new").mkdir()
    with pytest.raises(StorageError, match=r"report\.md cannot be written"):
        write_run_report(run)
    assert not (run / "report.md").exists()


def test_real_images_stand_beside_samples_and_the_animation_is_linked(make_run: MakeRun) -> None:
    folder = make_run({640: 9.0})
    grid = (folder / "samples/images_00000640.png").read_bytes()
    (folder / "samples/real.png").write_bytes(grid)
    (folder / "samples/training.gif").write_bytes(b"GIF89a")
    markdown, html = write_run_report(folder)
    row = "| ![Real images, of the size and colors that scores compare](samples/real.png) | ![nac, "
    assert row in markdown.read_text()
    assert markdown.read_text().count("real.png") == 1
    link = "The samples while it trained, as an animation"
    assert f"\n\n[{link}](samples/training.gif)\n\n" in markdown.read_text()
    assert f'<a href="samples/training.gif">{link}</a>' in html.read_text()


def test_long_hashes_configuration_and_environment_are_folded(make_run: MakeRun) -> None:
    digest = "sha256:" + "0123456789ab" + "c9" * 26
    for path in write_run_report(make_run({640: 9.0}, protocol={"reference_fingerprint": digest})):
        text = path.read_text()
        cell = f"<details><summary>{digest[:19]}…</summary><code>{digest}</code></details>"
        assert text.count(cell) == text.count(digest) == 1
        for heading in ("Configuration", "Environment"):
            assert f"<details>\n<summary>{heading}</summary>\n" in text
