from pathlib import Path

import pytest

from nacgen.errors import CheckpointError, CheckpointNotFoundError, ConfigurationError
from nacgen.reporting import load_run
from nacgen.reporting.recorded_runs import RecordedEvaluation, RecordedRun, main_metric
from tests.reporting.folders import MakeRun


def test_a_run_is_read_in_full(make_run: MakeRun) -> None:
    run = load_run(make_run({5120: 25.6, 25600: 11.6}, seed=1, warnings=("few_samples: 2000",)))
    assert (run.path.name, run.arm, run.seed) == ("nac-seed1", "nac", 1)
    assert run.metrics == ["fd_digits_classifier"]
    assert run.curve("fd_digits_classifier") == {5120: 25.6, 25600: 11.6}
    assert run.protocols("fd_digits_classifier")[5120]["num_samples"] == 2000
    assert run.evaluations[1].warnings == ("few_samples: 2000",)
    assert run.environment == {"torch": "2.10.0", "device": "cpu"}
    assert run.summary is not None
    assert run.summary["seconds"] == 58.25
    assert run.sample_grid(5120) == run.path / "samples/images_00005120.png"
    assert run.sample_grid(1) is None


def test_an_unfinished_run_has_no_summary(make_run: MakeRun) -> None:
    assert load_run(make_run({5120: 25.6}, is_finished=False)).summary is None


def test_a_missing_metric_lists_those_present(make_run: MakeRun) -> None:
    with pytest.raises(ConfigurationError, match=r"scores of fid in .*, which has fd_digits_class"):
        load_run(make_run({5120: 25.6})).curve("fid")


ROW = (
    '{"images_seen": 640, "evaluation": {"scores": {"fid": {"value": 9.5, "bias": 0.2, "settings": {}}}, '
    '"protocol": {}, "warnings": ["few"]}}'
)


@pytest.mark.parametrize("content", ['{"device": 3}', '{"threads": "2"}', '{"a": NaN}', "[]"])
def test_a_damaged_environment_is_passed_over(
    make_run: MakeRun, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run({5120: 25.6})
    (path / "environment.json").write_text(content)
    assert load_run(path).environment == {}
    assert f"passed over: {path / 'environment.json'} should hold a" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"inputs": "x"}', '{"configuration": 1, "inputs": {}}', "[]"])
def test_damaged_fingerprints_are_none(make_run: MakeRun, content: str) -> None:
    path = make_run({5120: 25.6})
    (path / "fingerprints.json").write_text(content)
    assert load_run(path).inputs == {}


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_what_is_no_run_folder_is_named(make_run: MakeRun, name: str) -> None:
    path = make_run({5120: 25.6})
    (path / name).unlink()
    with pytest.raises(CheckpointNotFoundError, match=f"{path} has no {name}"):
        load_run(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "seed: [", r"config.yaml should hold a mapping"),
        ("config.yaml", "- 1", r"a mapping, but does not \(list\)"),
        ("config.yaml", "init: nac", r"config.yaml should hold a seed, but does not \(only init\)"),
        (
            "metrics.jsonl",
            '{"images_seen": 1}\n{"imag',
            r"score row in line 2, but .*JSONDecodeError",
        ),
        (
            "metrics.jsonl",
            '{"evaluation": {}}',
            r"score row in line 1, but .*KeyError: 'images_seen'",
        ),
        ("metrics.jsonl", "[]\n[", r"score row in line 2"),
        ("metrics.jsonl", '{"unit": "\xb5s"}', r"score row in line 1, but .*UnicodeDecodeError"),
        ("summary.json", "{", r"summary.json should hold a mapping"),
        ("summary.json", "[]", r"a mapping, but does not \(list\)"),
        ("config.yaml", "seed: text", r"a whole number as seed, but does not \('text'\)"),
        ("config.yaml", "seed: true", r"a whole number as seed, but does not \(True\)"),
        ("config.yaml", "seed: -1", r"a whole number as seed, but does not \(-1\)"),
        ("summary.json", "{}", r"a whole number as images_seen, but does not \(None\)"),
        (
            "summary.json",
            '{"images_seen": 5120, "seconds": "9"}',
            r"a number as seconds, but does not \('9'\)",
        ),
        ("metrics.jsonl", f"{ROW}\n{ROW}", r"one score of a metric at a time, but .*repeated"),
        *(
            ("metrics.jsonl", ROW.replace(old, new), rf"score row in line 1, but .*{message}")
            for old, new, message in (
                ("640", "640.5", r"640\.5 should be of type int"),
                ("9.5", '"9.5"', r"'9\.5' should be of type int"),
                ("0.2", '"<b>"', r"'<b>' should be of type int"),
                ("{}}", "[1]}", r"\[1\] should be of type dict"),
                ('"few"', "[1]", r"\[1\] should be of type str"),
            )
        ),
    ],
)
def test_a_damaged_file_is_named(make_run: MakeRun, name: str, content: str, message: str) -> None:
    path = make_run({5120: 25.6})
    (path / name).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=message):
        load_run(path)


def test_a_protocol_in_the_old_spelling_is_read_in_todays(make_run: MakeRun) -> None:
    run = load_run(make_run({5120: 25.6}, protocol={"quantisation": "uint8"}))
    assert run.protocols("fd_digits_classifier")[5120]["quantization"] == "uint8"
    settings = run.evaluations[0].scores["fd_digits_classifier"]
    settings["settings"] = {"neighbours": 5}  # type: ignore[index]
    protocol = run.protocols("fd_digits_classifier")[5120]
    assert protocol["fd_digits_classifier.neighbors"] == 5


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        (("kid", "fid_infinity", "fid", "precision"), "fid"),
        (("elbo", "fd_infinity_digits_classifier", "fd_digits_classifier"), "fd_digits_classifier"),
        (("precision", "inception_score"), "inception_score"),
    ],
)
def test_the_main_metric_is_a_frechet_distance_if_there_is_one(
    metrics: tuple[str, ...], chosen: str
) -> None:
    scores = {metric: {"value": 1.0} for metric in metrics}
    run = RecordedRun(
        path=Path("run"),
        config={"seed": 0},
        environment={},
        evaluations=(RecordedEvaluation(images_seen=1, scores=scores, protocol={}),),
        summary=None,
    )
    assert main_metric([run]) == chosen


def test_runs_without_scores_have_no_main_metric() -> None:
    with pytest.raises(ConfigurationError, match="runs with scores, got none"):
        main_metric([])
